import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.learning.statistics import bootstrap_interval, seeds_needed, t_interval


def test_t_interval_by_hand() -> None:
    # Mean 3, s = sqrt(2.5), standard error sqrt(0.5); t(0.975, 4) = 2.7764.
    found = t_interval([1, 2, 3, 4, 5])
    assert found == pytest.approx((3, 3 - 2.7764 * 0.5**0.5, 3 + 2.7764 * 0.5**0.5))
    assert found.clear_of_zero
    assert not t_interval([-1, 2]).clear_of_zero
    assert t_interval([-3, -3.1, -2.9]).clear_of_zero


def test_the_t_quantiles_are_those_of_simulated_samples() -> None:
    # 95 % of intervals from normal samples cover the mean; 4 standard errors of 1,000 draws are 2.8 %.
    random = np.random.default_rng(0)
    for size in range(2, 11):
        draws = random.normal(size=(1_000, size))
        covered = [found.low <= 0 <= found.high for found in map(t_interval, draws.tolist())]
        assert abs(np.mean(covered) - 0.95) < 0.028, size


def test_t_interval_needs_a_few_values() -> None:
    for values in ([1.0], [1.0] * 11):
        with pytest.raises(ValueError, match=f"{len(values)} values"):
            t_interval(values)


def test_bootstrap_matches_the_standard_error_of_problems() -> None:
    # Equal seeds leave the problems' spread alone: ± 1.96 · sd / sqrt(problems) for a normal mean.
    row = np.random.default_rng(1).normal(0.1, 1.0, size=400)
    found = bootstrap_interval(np.stack([row] * 5), repeats=20_000, seed=0)
    half = 1.96 * row.std() / 20
    assert found.mean == pytest.approx(row.mean())
    assert (found.low, found.high) == pytest.approx((row.mean() - half, row.mean() + half), abs=0.006)


def test_bootstrap_matches_the_standard_error_of_seeds() -> None:
    # Equal problems leave the seeds' spread alone. Two seeds, 0 and 1: the mean of two draws is 0, ½ or 1
    # with chances ¼, ½, ¼, so that the 2.5 % and 97.5 % quantiles are the ends.
    table = np.array([[0.0] * 10, [1.0] * 10])
    assert bootstrap_interval(table, repeats=2_000, seed=0) == pytest.approx((0.5, 0.0, 1.0))


@given(st.floats(-1, 1), st.integers(1, 5), st.integers(1, 20))
def test_bootstrap_of_a_constant_is_the_constant(value: float, seeds: int, problems: int) -> None:
    found = bootstrap_interval(np.full((seeds, problems), value), repeats=50, seed=3)
    assert found == pytest.approx((value, value, value))


def test_bootstrap_is_the_same_with_the_same_seed() -> None:
    table = np.random.default_rng(2).normal(size=(3, 30))
    assert bootstrap_interval(table, repeats=100, seed=5) == bootstrap_interval(table, repeats=100, seed=5)
    assert bootstrap_interval(table, repeats=100, seed=5) != bootstrap_interval(table, repeats=100, seed=6)


def test_bootstrap_refuses_an_empty_table() -> None:
    with pytest.raises(ValueError, match="shape"):
        bootstrap_interval(np.zeros((0, 3)), repeats=10, seed=0)


def test_seeds_needed_by_hand() -> None:
    # The spread is 0.11547: (1.95996 + 0.84162)^2 * 0.11547^2 / 0.05^2 = 41.9.
    assert seeds_needed([0.1, -0.1, 0.1, -0.1], 0.05) == 42
    assert seeds_needed([0.1, -0.1, 0.1, -0.1], 0.1) == 11
    assert seeds_needed([0.2, 0.2], 0.05) == 2
