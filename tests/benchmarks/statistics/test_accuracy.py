"""Intervals of an accuracy: against scipy, and by how often they hold the truth."""

import math

import numpy as np
import pytest

from benchmarks.statistics.accuracy import accuracy_interval, wilson_interval
from submission.selection.statistics import mcnemar


@pytest.mark.parametrize(("right", "problems"), [(0, 10), (7, 10), (10, 10), (44, 50), (1, 1)])
def test_wilson_is_scipys(right: int, problems: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(right, problems).proportion_ci(method="wilson")
    found = wilson_interval(right, problems)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.mean == right / problems


def test_wilson_covers_on_average_what_it_says() -> None:
    # Exactly: the chance of every count of 30, over truths spread evenly.
    inside = []
    for truth in np.linspace(0.05, 0.95, 91):
        chances = [math.comb(30, k) * truth**k * (1 - truth) ** (30 - k) for k in range(31)]
        ends = [wilson_interval(k, 30) for k in range(31)]
        inside.append(sum(c for c, i in zip(chances, ends, strict=True) if i.low <= truth <= i.high))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.01)


def test_all_right_leaves_doubt() -> None:
    found = accuracy_interval(np.ones((5, 10)))
    assert found == wilson_interval(10, 10) and found.low < 0.8


def test_mcnemar_is_scipys_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = [True] * 9 + [False] * 3 + [True] * 5, [False] * 9 + [True] * 3 + [True] * 5
    assert mcnemar(first, second) == pytest.approx(stats.binomtest(3, 12).pvalue, rel=1e-12)


def test_empty_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="not empty"):
        accuracy_interval(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="no interval"):
        wilson_interval(3, 2)
