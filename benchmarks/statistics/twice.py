"""The contest's score: the private problems are run twice, and a problem counts 1, 0.5 or 0."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class TwiceRun:
    """What two runs of the same problems score together.

    Args:
        score: expected points: 1 where both runs are right, 0.5 where one is. Since that is the mean of the
            two, it is the number of problems times the accuracy.
        spread: standard deviation of that score over pairs of runs of these very problems; NaN of one run.
        both, one, none: expected share of problems right in both runs, in one, in none; NaN of one run.
    """

    score: float
    spread: float
    both: float
    one: float
    none: float


def twice_run(right: "npt.NDArray[np.float64]") -> TwiceRun:
    """Expectation over all pairs of different runs.

    With r of R runs right at a problem, two of them are both right with r (r - 1) / (R (R - 1)), which is
    unbiased for p^2; the variance of the two runs' mean is half of p (1 - p), problems being independent.

    Args:
        right: [runs, problems], 1 for a right answer.

    Raises:
        ValueError: the table is empty or has other than two dimensions.
    """
    if right.ndim != 2 or 0 in right.shape:
        raise ValueError(f"a table of shape {right.shape}: expected [runs, problems], not empty")
    runs = right.shape[0]
    hits = right.sum(axis=0)
    score = float(hits.sum()) / runs
    if runs == 1:
        return TwiceRun(score, math.nan, math.nan, math.nan, math.nan)
    pairs = runs * (runs - 1)
    both = float((hits * (hits - 1) / pairs).mean())
    none = float(((runs - hits) * (runs - hits - 1) / pairs).mean())
    one = 1 - both - none
    # One problem's p (1 - p) is half of the chance that two runs differ.
    spread = math.sqrt(max(0.0, one) / 2 * right.shape[1] / 2)
    return TwiceRun(score, spread, both, one, none)
