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


def test_one_run_of_shares_has_scipys_percentile_bootstrap() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).beta(2, 1, size=40)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    found = accuracy_interval(values.reshape(1, -1), repeats=20_000)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.005)


def test_all_right_leaves_doubt() -> None:
    found = accuracy_interval(np.ones((5, 10)))
    assert found == wilson_interval(10, 10) and found.low < 0.8


@pytest.mark.parametrize("runs", [1, 4])
def test_the_interval_of_several_runs_covers(runs: int) -> None:
    """Problems and answers are drawn anew each time; the truth is the mean over all problems there are."""
    random = np.random.default_rng(runs)
    inside, widths = 0, []
    for number in range(200):
        chances = random.beta(2, 1, size=40)
        right = (random.random((runs, 40)) < chances).astype(float)
        found = accuracy_interval(right, repeats=200, seed=number)
        inside += found.low <= 2 / 3 <= found.high
        widths.append(found.high - found.low)
    assert 0.92 <= inside / 200 <= 0.995
    # Problems bring sd(p) / sqrt(40) and more: no interval is narrower than four of these.
    assert np.mean(widths) >= 3.9 * math.sqrt(1 / 18) / math.sqrt(40)


def test_mcnemar_is_scipys_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = [True] * 9 + [False] * 3 + [True] * 5, [False] * 9 + [True] * 3 + [True] * 5
    assert mcnemar(first, second) == pytest.approx(stats.binomtest(3, 12).pvalue, rel=1e-12)


def test_empty_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="not empty"):
        accuracy_interval(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="no interval"):
        wilson_interval(3, 2)
