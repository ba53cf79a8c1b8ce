import numpy as np
import pytest

from benchmarks.learning.statistics import seeds_needed, t_interval


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


def test_seeds_needed_by_hand() -> None:
    # The spread is 0.11547: (1.95996 + 0.84162)^2 * 0.11547^2 / 0.05^2 = 41.9.
    assert seeds_needed([0.1, -0.1, 0.1, -0.1], 0.05) == 42
    assert seeds_needed([0.1, -0.1, 0.1, -0.1], 0.1) == 11
    assert seeds_needed([0.2, 0.2], 0.05) == 2
