"""The prompt stream: every prompt once an epoch, from anywhere on; fewer visits to what taught nothing."""

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.grpo.curriculum import Pick, sample_seed, stream


def nothing_known(prompt: int) -> float | None:
    return None


def take(count: int, begin: int, length: int, seed: int = 0) -> list[Pick]:
    return list(islice(stream(count, begin, seed, 0.25, nothing_known), length))


@given(st.integers(1, 30), st.integers(0, 100), st.integers(0, 2**63 - 1))
def test_every_prompt_comes_once_an_epoch(count: int, begin: int, seed: int) -> None:
    picks = take(count, 0, 3 * count, seed)
    assert [pick.position for pick in picks] == list(range(3 * count))
    for epoch in range(3):
        part = picks[epoch * count : (epoch + 1) * count]
        assert sorted(pick.prompt for pick in part) == list(range(count))
    assert take(count, begin, 5, seed) == take(count, 0, begin + 5, seed)[begin:]


def test_epochs_and_seeds_differ() -> None:
    prompts = [pick.prompt for pick in take(50, 0, 100)]
    assert prompts[:50] != prompts[50:]
    assert prompts != [pick.prompt for pick in take(50, 0, 100, seed=1)]


@given(st.integers(1, 12), st.data())
def test_positions_only_rise(count: int, data: st.DataObject) -> None:
    rates = data.draw(
        st.dictionaries(st.integers(0, count - 1), st.sampled_from([0.0, 0.5, 1.0]), max_size=count)
    )
    picks = list(islice(stream(count, 3, 1, 0.3, rates.get), 20))
    positions = [pick.position for pick in picks]
    assert positions == sorted(set(positions)) and positions[0] >= 3
    # What is skipped is passed over: the rest stand where they stood.
    whole = take(count, 0, positions[-1] + 1, seed=1)
    assert all(whole[pick.position] == pick for pick in picks)


@pytest.mark.parametrize("revisit", [0.1, 0.25, 0.8])
def test_what_taught_nothing_comes_up_less(revisit: float) -> None:
    """Of 40 prompts 20 are always or never solved. Over 200 epochs each set is visited 4000 times at most;
    the share of the dull ones is binomial: a deviation of at most 0.008, and 4 of them are allowed."""
    rates = {prompt: (0.0, 1.0)[prompt % 2] for prompt in range(20)} | {20: 0.5, 21: 1 / 16, 22: 15 / 16}
    visits: Counter[int] = Counter()
    for pick in stream(40, 0, 7, revisit, rates.get):
        if pick.position >= 40 * 200:
            break
        visits[pick.prompt] += 1
    assert {visits[prompt] for prompt in range(20, 40)} == {200}
    dull = sum(visits[prompt] for prompt in range(20))
    assert abs(dull / 4000 - revisit) < 4 * (revisit * (1 - revisit) / 4000) ** 0.5


def test_a_revisit_of_one_skips_nothing() -> None:
    dull = list(islice(stream(5, 0, 0, 1.0, dict.fromkeys(range(5), 0.0).get), 10))
    assert dull == take(5, 0, 10)


def test_seeds_belong_to_one_completion() -> None:
    seeds = {
        sample_seed(seed, position, attempt)
        for seed in range(5)
        for position in range(40)
        for attempt in range(20)
    }
    assert len(seeds) == 5 * 40 * 20
    assert min(seeds) >= 0 and max(seeds) < 2**63
    assert sample_seed(-1, 0, 0) not in seeds  # an evaluation's
    # A run that is gone on with on another machine or version draws the same.
    assert sample_seed(0, 0, 0) == 0x3F80D6B7DAA0A166
