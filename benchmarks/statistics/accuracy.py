"""An accuracy with its interval, from a table of right and wrong answers."""

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

from benchmarks.statistics.resampling import bootstrap
from submission.selection.statistics import Interval

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REPEATS = 4_000
"""Bootstrap draws."""


def wilson_interval(right: float, problems: int, level: float = 0.95) -> Interval:
    """Share of right answers with the score interval of Wilson 1927, which is never of no width.

    Args:
        right: right answers, 0 to `problems`.
        problems: at least 1.
        level: of the interval, two-sided.

    Raises:
        ValueError: `problems` below 1, or `right` outside 0 to `problems`.
    """
    if problems < 1 or not 0 <= right <= problems:
        raise ValueError(f"{right} right answers of {problems} problems: no interval")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = right / problems
    below = 1 + z * z / problems
    middle = (share + z * z / (2 * problems)) / below
    half = z / below * math.sqrt(share * (1 - share) / problems + z * z / (4 * problems**2))
    # At the ends the formula is exact but for rounding.
    low = 0.0 if right == 0 else max(0.0, middle - half)
    high = 1.0 if right == problems else min(1.0, middle + half)
    return Interval(share, low, high)


def accuracy_interval(
    right: "npt.NDArray[np.float64]", *, repeats: int = REPEATS, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean accuracy with its interval, over the problems and the seeds that might have been drawn.

    Wilson's for one run of right and wrong answers, and where all are right or all wrong, since resampling
    equal values says that there is no doubt; else `bootstrap` with half a problem that is always right and
    half a one that never is.

    Args:
        right: [runs, problems], 1 for a right answer, or a share in 0 to 1.
        repeats: bootstrap draws.
        seed: the same seed gives the same interval.
        level: of the interval, two-sided.

    Raises:
        ValueError: the table is empty or has other than two dimensions.
    """
    if right.ndim != 2 or 0 in right.shape:
        raise ValueError(f"a table of shape {right.shape}: expected [runs, problems], not empty")
    runs, problems = right.shape
    by_problem = right.mean(axis=0)
    whole = bool(((right == 0) | (right == 1)).all())
    settled = whole and float(right.mean()) in (0.0, 1.0)
    if (runs == 1 and whole) or settled:
        return wilson_interval(float(by_problem.sum()), problems, level)
    return bootstrap([(1.0, right)], prior=0.5, repeats=repeats, seed=seed, level=level)
