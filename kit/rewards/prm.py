"""Score of a process reward model as a reward: one probability a step, combined to one number."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

StepScorer = Callable[[str, str], Sequence[float]]
"""(problem, completion) to the probability that each step is right, such as
`submission.scoring.PrmScorer.step_scores` of a started scorer."""

Aggregate = Literal["min", "mean", "last", "product"]


def aggregate(scores: Sequence[float], how: Aggregate) -> float:
    """One number from the scores of the steps; NaN where there is none.

    `min` and `product` are Lightman et al. 2023 (arXiv 2305.20050), `last` is Uesato et al. 2022. They rank
    candidates differently, so choose by evaluation.
    """
    if not scores:
        return math.nan
    if how == "min":
        return min(scores)
    if how == "mean":
        return math.fsum(scores) / len(scores)
    return scores[-1] if how == "last" else math.prod(scores)


class PrmReward:
    """A step scorer with a way to combine its scores.

    Args:
        scorer: called in the thread of the caller, one completion at a time; what it raises goes through.
        how: how the steps' scores are combined.
    """

    def __init__(self, scorer: StepScorer, how: Aggregate = "min") -> None:
        self._scorer = scorer
        self._how: Aggregate = how

    def __call__(self, problem: str, completion: str) -> float:
        """The combined score; NaN where the completion has no step or one of the scores is not finite."""
        scores = [float(score) for score in self._scorer(problem, completion)]
        return aggregate(scores, self._how) if all(map(math.isfinite, scores)) else math.nan
