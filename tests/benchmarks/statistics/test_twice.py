"""The twice-run score by hand, by enumeration and by simulation."""

import itertools
import math

import numpy as np
import pytest

from benchmarks.statistics.twice import twice_run


def test_by_hand() -> None:
    # Three runs: right in all, in two, in none.
    found = twice_run(np.array([[1.0, 1, 0], [1, 1, 0], [1, 0, 0]]))
    # The middle problem: of three pairs one has both right, two have one.
    assert found.score == pytest.approx(1 + 2 / 3)
    assert (found.both, found.one, found.none) == pytest.approx(((1 + 1 / 3) / 3, 2 / 9, 1 / 3))


def test_is_the_mean_over_all_pairs() -> None:
    right = (np.random.default_rng(0).random((5, 12)) < 0.6).astype(float)
    pairs = [(right[a], right[b]) for a, b in itertools.permutations(range(5), 2)]
    points = [np.where(a + b == 2, 1, np.where(a + b == 1, 0.5, 0)).sum() for a, b in pairs]
    found = twice_run(right)
    assert found.score == pytest.approx(np.mean(points))
    assert found.both == pytest.approx(np.mean([((a + b) == 2).mean() for a, b in pairs]))


def test_the_spread_is_that_of_fresh_pairs() -> None:
    random = np.random.default_rng(3)
    chances = random.random(50)
    scores = ((random.random((20_000, 2, 50)) < chances).mean(axis=1)).sum(axis=1)
    estimates = [twice_run((random.random((4, 50)) < chances).astype(float)).spread ** 2 for _ in range(300)]
    assert np.mean(estimates) == pytest.approx(scores.var(), rel=0.05)


def test_one_run_says_nothing_of_two() -> None:
    found = twice_run(np.array([[1.0, 0]]))
    assert found.score == 1 and math.isnan(found.both) and math.isnan(found.spread)
    with pytest.raises(ValueError, match="not empty"):
        twice_run(np.zeros((2, 0)))
