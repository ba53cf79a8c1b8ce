"""Score of a process reward model as a reward: one probability a step, combined to one number."""

from collections.abc import Callable, Sequence

from submission.prm.aggregate import Aggregate, aggregate

__all__ = ["Aggregate", "PrmReward", "StepScorer", "aggregate"]

StepScorer = Callable[[str, str], Sequence[float]]
"""(problem, completion) to the probability that each step is right, such as `step_scores` of a started
`submission.prm.scorer.CheckpointScorer`."""


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
        return aggregate([float(score) for score in self._scorer(problem, completion)], self._how)
