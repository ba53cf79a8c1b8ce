"""Two runs on the same problems: what lies between them, and what the set could have shown at all."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from benchmarks.statistics.resampling import bootstrap
from submission.selection.statistics import Interval, mcnemar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REPEATS = 4_000


@dataclass(frozen=True)
class Comparison:
    """The second run's accuracy above the first's.

    Args:
        difference: mean over problems, with the paired bootstrap's interval.
        p_value: of McNemar's exact test, on the first repeat of each run alone: the test is of one answer a
            problem and run.
        discordant: share of problems where just one of the two is right, mean over all pairs of repeats.
        least: smallest difference that so many problems show four times in five (`least_difference`).
    """

    difference: Interval
    p_value: float
    discordant: float
    least: float


def paired_difference(
    first: "npt.NDArray[np.float64]",
    second: "npt.NDArray[np.float64]",
    *,
    repeats: int = REPEATS,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of second - first with the interval of a paired bootstrap.

    Each draw takes problems with replacement, the same for both runs, and of each run's repeats what sets
    them apart (`bootstrap`), independently: repeats of different runs share nothing, problems do. Among the
    problems is half a one where one answer more is right in the first run, and half a one for the second:
    without them few differing problems, all in favour of one run, would leave no doubt (Bonett and Price
    2012, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired Data").

    Args:
        first, second: [repeats, problems], 1 for a right answer; the same problems in the same order.
        repeats: bootstrap draws.
        seed: the same seed gives the same interval.
        level: of the interval, two-sided.

    Raises:
        ValueError: a table is empty, or the problems are not as many.
    """
    _check(first, second)
    answer = 1 / min(first.shape[0], second.shape[0])
    tables = [(-1.0, first), (1.0, second)]
    return bootstrap(tables, prior=answer, repeats=repeats, seed=seed, level=level)


def discordance(first: "npt.NDArray[np.float64]", second: "npt.NDArray[np.float64]") -> float:
    """Expected share of problems where one repeat of each run disagree on being right."""
    _check(first, second)
    a, b = first.mean(axis=0), second.mean(axis=0)
    return float((a * (1 - b) + b * (1 - a)).mean())


def least_difference(problems: int, discordant: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """Smallest difference in accuracy that McNemar's test shows with this power.

    The delta that solves delta sqrt(n) = z_level sqrt(psi) + z_power sqrt(psi - delta^2), with psi the share
    of discordant problems (Connor 1987, "Sample Size for Testing Differences in Proportions for the
    Paired-Sample Design"). Two runs differ by at most psi, so the result is `inf` where not even that would
    be seen.

    Args:
        problems: n, at least 1.
        discordant: psi, 0 to 1.
        level: of the test, two-sided.
        power: chance to see the difference.

    Raises:
        ValueError: an argument out of range.
    """
    if problems < 1 or not 0 <= discordant <= 1 or not 0 < level < 1 or not 0 < power < 1:
        raise ValueError(
            f"least_difference({problems}, {discordant}, level={level}, power={power}): out of range"
        )
    if discordant == 0:
        return math.inf
    normal = NormalDist()
    alpha, beta = normal.inv_cdf((1 + level) / 2), normal.inv_cdf(power)

    def short(delta: float) -> float:
        needed = alpha * math.sqrt(discordant) + beta * math.sqrt(max(0.0, discordant - delta * delta))
        return needed - delta * math.sqrt(problems)

    if short(discordant) > 0:
        return math.inf
    low, high = 0.0, discordant
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if short(middle) > 0 else (low, middle)
    return high


def compare(
    first: "npt.NDArray[np.float64]", second: "npt.NDArray[np.float64]", *, seed: int = 0
) -> Comparison:
    """All that one table of each run tells.

    Args:
        first, second: [repeats, problems], 1 for a right answer; the same problems in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: a table is empty, or the problems are not as many.
    """
    apart = discordance(first, second)
    return Comparison(
        difference=paired_difference(first, second, seed=seed),
        p_value=mcnemar([bool(one) for one in first[0]], [bool(one) for one in second[0]]),
        discordant=apart,
        least=least_difference(first.shape[1], apart),
    )


def _check(first: "npt.NDArray[np.float64]", second: "npt.NDArray[np.float64]") -> None:
    for table in (first, second):
        if table.ndim != 2 or 0 in table.shape:
            raise ValueError(f"a table of shape {table.shape}: expected [repeats, problems], not empty")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{first.shape[1]} and {second.shape[1]} problems cannot be paired")
