"""Group advantages: values by hand, groups without signal, lost samples, invariances."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.losses.advantages import Scale, group_advantages, zero_variance

NAN = math.nan
SCALES: tuple[Scale, ...] = ("group", "batch", "none")

REWARDS = st.one_of(st.sampled_from([0.0, 1.0, 0.5, -1.0, NAN]), st.floats(-100, 100))
BATCHES = st.lists(st.tuples(REWARDS, st.integers(0, 4)), max_size=30)


def split(batch: list[tuple[float, int]]) -> tuple[list[float], "np.ndarray[Any, np.dtype[np.int64]]"]:
    return [reward for reward, _ in batch], np.array([group for _, group in batch], dtype=np.int64)


def rounded(batch: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """To multiples of 1/64, whose sums are exact: rewards that differ do so by as much, whatever is added."""
    return [(NAN if math.isnan(reward) else round(reward * 64) / 64, group) for reward, group in batch]


# --- values ------------------------------------------------------------------------------------------


def test_values_by_hand_with_the_groups_std() -> None:
    # Group 7: mean 1/2, squares 4 * 1/4, over 4 - 1: std sqrt(1/3). Group 2: mean 2, squares 1 + 0 + 1, over
    # 3 - 1: std 1.
    rewards, groups = [1, 1, 0, 2, 0, 3, 1], [7, 2, 7, 2, 7, 2, 7]
    first, second = 0.5 / (math.sqrt(1 / 3) + 1e-4), 1 / (1 + 1e-4)
    expected = [first, -second, -first, 0, -first, second, first]
    assert group_advantages(rewards, groups).tolist() == pytest.approx(expected, abs=1e-15)


def test_values_by_hand_with_the_batchs_std() -> None:
    # Means 1/2 and 3. All of 1, 0, 2, 4: mean 7/4, squares (9 + 49 + 1 + 81) / 16 = 35/4, over 4 - 1: 35/12.
    std = math.sqrt(35 / 12)
    advantages = group_advantages([1, 0, 2, 4], [0, 0, 1, 1], scale="batch", eps=0.5)
    expected = [0.5 / (std + 0.5), -0.5 / (std + 0.5), -1 / (std + 0.5), 1 / (std + 0.5)]
    assert advantages.tolist() == pytest.approx(expected, abs=1e-15)


def test_values_by_hand_without_std() -> None:
    # Mean 1/4.
    assert group_advantages([1, 0, 0, 0], [3, 3, 3, 3], scale="none").tolist() == [0.75, -0.25, -0.25, -0.25]


def test_groups_without_signal_count_in_the_batchs_std() -> None:
    # 1, 0, 1, 1: mean 3/4, squares (1 + 9 + 1 + 1) / 16 = 3/4, over 3: std 1/2.
    advantages = group_advantages([1, 0, 1, 1], [0, 0, 1, 1], scale="batch", eps=0)
    assert advantages.tolist() == pytest.approx([1, -1, 0, 0], abs=1e-15)


# --- no signal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_equal_rewards_are_exactly_zero_in_spite_of_float_noise(scale: Scale) -> None:
    thirds = [0.1 + 0.2, 0.3, 0.3]
    assert thirds[0] != thirds[1]
    cancelled = [0.1 + 0.2 - 0.3, 0.0, 0.0]
    assert cancelled[0] != 0
    large = [1e6 * (1 + 1e-12), 1e6, 1e6]
    rewards = [*thirds, *cancelled, *large, 1, 0, 0]
    groups = np.repeat([0, 1, 2, 3], 3)
    advantages = group_advantages(rewards, groups, scale=scale)
    assert advantages[:9].tolist() == [0] * 9
    assert advantages[9] > 0
    assert zero_variance(rewards, groups) == {0, 1, 2}


def test_a_small_difference_is_a_signal() -> None:
    advantages = group_advantages([1, 1 + 1e-6], [0, 0], scale="none")
    assert advantages.tolist() == pytest.approx([-5e-7, 5e-7], rel=1e-6)
    assert zero_variance([1, 1 + 1e-6], [0, 0]) == set()


@pytest.mark.parametrize("scale", SCALES)
def test_groups_of_one_or_none(scale: Scale) -> None:
    # 0: one completion; 1: one left of three; 2: none left; 3: two left.
    rewards = [5, 1, NAN, NAN, NAN, NAN, 1, 0, NAN]
    groups = [0, 1, 1, 1, 2, 2, 3, 3, 3]
    advantages = group_advantages(rewards, groups, scale=scale)
    assert advantages[:6].tolist() == [0] * 6
    assert advantages[6] == -advantages[7] > 0
    assert advantages[8] == 0
    assert zero_variance(rewards, groups) == {0, 1, 2}


@pytest.mark.parametrize("scale", SCALES)
def test_an_empty_batch_and_an_entirely_lost_one(scale: Scale) -> None:
    assert group_advantages([], [], scale=scale).shape == (0,)
    assert zero_variance([], []) == set()
    assert group_advantages([NAN, NAN], [0, 1], scale=scale).tolist() == [0, 0]
    assert zero_variance([NAN, NAN], [0, 1]) == {0, 1}


@pytest.mark.parametrize("scale", SCALES)
def test_a_lost_sample_counts_as_if_it_was_never_drawn(scale: Scale) -> None:
    with_lost = group_advantages([1, NAN, 0, 3, 2, NAN], [0, 0, 0, 1, 1, 1], scale=scale)
    without = group_advantages([1, 0, 3, 2], [0, 0, 1, 1], scale=scale)
    assert with_lost[[0, 2, 3, 4]].tolist() == without.tolist()
    assert with_lost[[1, 5]].tolist() == [0, 0]


# --- properties --------------------------------------------------------------------------------------


@given(batch=BATCHES, scale=st.sampled_from(SCALES))
def test_finite_and_sum_to_zero_in_each_group(batch: list[tuple[float, int]], scale: Scale) -> None:
    rewards, groups = split(batch)
    advantages = group_advantages(rewards, groups, scale=scale)
    assert bool(np.isfinite(advantages).all())
    for group in set(groups.tolist()):
        # The mean is off by 7e-15 at most (half a unit in the last place of 100), for each of 30 completions,
        # and divided by no less than eps = 1e-4.
        assert abs(advantages[groups == group].sum()) < 1e-8


@given(batch=BATCHES, scale=st.sampled_from(SCALES))
def test_zero_variance_names_the_groups_with_no_advantage(
    batch: list[tuple[float, int]], scale: Scale
) -> None:
    rewards, groups = split(batch)
    advantages = group_advantages(rewards, groups, scale=scale)
    silent = {group for group in set(groups.tolist()) if not advantages[groups == group].any()}
    assert zero_variance(rewards, groups) == silent


@given(batch=BATCHES, scale=st.sampled_from(SCALES), data=st.data())
def test_order_changes_no_bit(batch: list[tuple[float, int]], scale: Scale, data: st.DataObject) -> None:
    rewards, groups = split(batch)
    order = data.draw(st.permutations(range(len(batch))))
    advantages = group_advantages(rewards, groups, scale=scale)
    permuted = group_advantages([rewards[i] for i in order], groups[list(order)], scale=scale)
    assert permuted.tolist() == advantages[list(order)].tolist()


@pytest.mark.parametrize("scale", SCALES)
def test_order_changes_no_bit_of_a_large_group(scale: Scale) -> None:
    # Plain sums of 64 such numbers differ in their last bits between orders.
    draw = np.random.default_rng(0)
    rewards = draw.normal(size=64)
    orders = [draw.permutation(64) for _ in range(20)]
    assert len({float(rewards[order].sum()) for order in orders}) > 1
    advantages = group_advantages(rewards, [0] * 64, scale=scale)
    for order in orders:
        permuted = group_advantages(rewards[order], [0] * 64, scale=scale)
        assert permuted.tolist() == advantages[order].tolist()


@given(batch=BATCHES, scale=st.sampled_from(["group", "none"]), constant=st.integers(-50, 50))
def test_a_constant_added_to_one_group_changes_nothing(
    batch: list[tuple[float, int]], scale: Scale, constant: int
) -> None:
    rewards, groups = split(rounded(batch))
    shifted = [reward + constant * (group == 0) for reward, group in rounded(batch)]
    before = group_advantages(rewards, groups, scale=scale)
    after = group_advantages(shifted, groups, scale=scale)
    assert after.tolist() == pytest.approx(before.tolist(), abs=1e-10)


@given(batch=BATCHES, power=st.integers(-3, 6))
def test_scaled_rewards_have_the_same_advantages_but_for_eps(
    batch: list[tuple[float, int]], power: int
) -> None:
    rewards, groups = split(rounded(batch))
    scaled = [2.0**power * reward for reward in rewards]
    for scale in ("group", "batch"):
        before = group_advantages(rewards, groups, scale=scale, eps=0)
        assert group_advantages(scaled, groups, scale=scale, eps=0).tolist() == before.tolist()
        # eps shrinks an advantage by std / (std + eps); 30 rewards that differ by 1/512 have a std over 3e-4.
        shrunk = group_advantages(scaled, groups, scale=scale, eps=1e-6)
        assert bool((np.abs(shrunk) <= np.abs(before)).all())
        assert shrunk.tolist() == pytest.approx(before.tolist(), rel=4e-3, abs=0)


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_infinite_rewards_are_refused(infinite: float) -> None:
    for function in (group_advantages, zero_variance):
        with pytest.raises(ValueError, match=r"reward 2 is -?inf"):
            function([0, NAN, infinite, 1], [0, 0, 0, 0])


def test_wrong_shapes_types_and_eps_are_refused() -> None:
    for function in (group_advantages, zero_variance):
        with pytest.raises(ValueError, match=r"\(3,\) and groups \(2,\)"):
            function([0, 1, 0], [0, 0])
        with pytest.raises(ValueError, match=r"\(1, 2\) and groups \(1, 2\)"):
            function([[0, 1]], [[0, 0]])
        with pytest.raises(ValueError, match="integers"):
            function([0, 1], [0.0, 0.5])
    for eps in (-1e-4, NAN):
        with pytest.raises(ValueError, match="eps"):
            group_advantages([0, 1], [0, 0], eps=eps)
