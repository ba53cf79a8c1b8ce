"""Paired comparison: coverage, power, and values by hand."""

import math

import numpy as np
import pytest

from benchmarks.statistics.paired import compare, discordance, least_difference, paired_difference


def test_by_hand() -> None:
    first, second = np.array([[1.0, 1, 0, 0]]), np.array([[1.0, 1, 1, 1]])
    found = compare(first, second)
    assert found.difference.mean == 0.5
    assert found.p_value == 0.5  # two of two fair coins, two-sided
    assert found.discordant == 0.5
    assert paired_difference(first, first).clear_of_zero is False
    assert compare(first, first).least == math.inf


def test_pairing_takes_the_problems_difficulty_out() -> None:
    chances = np.repeat([0.0, 1.0], 50)  # half are always right, half never
    first = np.tile(chances, (3, 1))
    second = first.copy()
    second[:, :5] = 1
    found = paired_difference(first, second)
    assert found.mean == pytest.approx(0.05) and found.low > 0 and found.high < 0.1


def test_no_difference_seen_is_still_in_doubt() -> None:
    """Ten problems alike in both runs: a bootstrap of zeros would be sure."""
    same = np.ones((1, 10))
    found = paired_difference(same, same)
    assert found.mean == 0 and found.low < -0.1 and found.high > 0.1


@pytest.mark.parametrize(("problems", "apart"), [(400, 0.2), (500, 0.1), (1319, 0.3)])
def test_the_least_difference_is_seen_four_times_in_five(problems: int, apart: float) -> None:
    delta = least_difference(problems, apart)
    draws = np.random.default_rng(5).multinomial(
        problems, [(apart + delta) / 2, (apart - delta) / 2, 1 - apart], size=8_000
    )
    b, c = draws[:, 0], draws[:, 1]
    seen = (b - c) ** 2 > 3.8415 * (b + c)  # McNemar's test, as the formula takes it
    assert seen.mean() == pytest.approx(0.8, abs=0.03)


def test_the_least_difference_by_hand() -> None:
    # 1.95996 sqrt(0.2) + 0.84162 sqrt(0.2 - d^2) = 10 d
    assert least_difference(100, 0.2) == pytest.approx(0.12382, abs=1e-4)
    assert least_difference(5, 0.1) == math.inf  # not even all discordant problems would do
    with pytest.raises(ValueError, match="out of range"):
        least_difference(0, 0.1)


def test_discordance_by_hand() -> None:
    first, second = np.array([[1.0, 1], [1, 0]]), np.array([[0.0, 1]])
    assert discordance(first, second) == pytest.approx((1 + 0.5) / 2)


def test_other_problems_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="3 and 2 problems"):
        compare(np.ones((1, 3)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="not empty"):
        compare(np.ones((0, 3)), np.ones((1, 3)))
