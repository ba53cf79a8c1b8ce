"""Differences between two arms that share their seeds and their test problems."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# 0.975 quantile of Student's t with 1, 2, … 9 degrees of freedom.
_T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


class Interval(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def t_interval(values: Sequence[float]) -> Interval:
    """Mean of 2 to 10 values and Student's 95 % interval: mean ± t(0.975, n - 1) · s / √n."""
    if not 2 <= len(values) <= len(_T_975) + 1:
        raise ValueError(f"{len(values)} values: an interval is made of 2 to {len(_T_975) + 1}")
    mean = statistics.fmean(values)
    half = _T_975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(differences: npt.NDArray[np.float64], *, repeats: int, seed: int) -> Interval:
    """Mean difference with the 95 % percentile interval of a bootstrap over seeds and over problems.

    Args:
        differences: [seeds, problems], what one arm scored above the other on the same seed and problem.
            Each repeat draws seeds and problems with replacement, independently, and takes the mean over
            both (the two-way bootstrap of Owen 2007).
    """
    if differences.ndim != 2 or 0 in differences.shape:
        raise ValueError(f"differences of shape {differences.shape}: expected [seeds, problems], not empty")
    random = np.random.default_rng(seed)
    seeds, problems = differences.shape
    # How often each seed and problem is drawn: the repeat's mean is then two products of small matrices.
    by_seed = random.multinomial(seeds, [1 / seeds] * seeds, size=repeats) / seeds
    by_problem = random.multinomial(problems, [1 / problems] * problems, size=repeats) / problems
    means = ((by_seed @ differences) * by_problem).sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(differences.mean()), float(low), float(high))


def seeds_needed(differences: Sequence[float], effect: float) -> int:
    """Seeds that tell a mean difference of `effect` from zero four times in five, at 5 % two-sided.

    n = ((z(0.975) + z(0.8)) * s / effect)^2 with the spread s of these paired differences. Student's t asks
    for a few more where n is small.
    """
    spread = statistics.stdev(differences)
    normal = statistics.NormalDist()
    return max(2, math.ceil(((normal.inv_cdf(0.975) + normal.inv_cdf(0.8)) * spread / effect) ** 2))
