"""Differences between two arms that share their seeds and their test problems."""

import math
import statistics
from collections.abc import Sequence

from submission.selection.statistics import Interval

# 0.975 quantile of Student's t with 1, 2, … 9 degrees of freedom.
_T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


def t_interval(values: Sequence[float]) -> Interval:
    """Mean of 2 to 10 values and Student's 95 % interval: mean ± t(0.975, n - 1) · s / √n."""
    if not 2 <= len(values) <= len(_T_975) + 1:
        raise ValueError(f"{len(values)} values: an interval is made of 2 to {len(_T_975) + 1}")
    mean = statistics.fmean(values)
    half = _T_975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def seeds_needed(differences: Sequence[float], effect: float) -> int:
    """Seeds that tell a mean difference of `effect` from zero four times in five, at 5 % two-sided.

    n = ((z(0.975) + z(0.8)) * s / effect)^2 with the spread s of these paired differences. Student's t asks
    for a few more where n is small.
    """
    spread = statistics.stdev(differences)
    normal = statistics.NormalDist()
    return max(2, math.ceil(((normal.inv_cdf(0.975) + normal.inv_cdf(0.8)) * spread / effect) ** 2))
