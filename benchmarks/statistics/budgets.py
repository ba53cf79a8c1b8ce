"""Accuracy against what it costs: the vote of the samples that had ended by then."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from submission.selection.voting import majority


@dataclass(frozen=True)
class Spending:
    """The samples of one problem in the order in which they ended.

    Args:
        costs: what the problem had cost when each ended (seconds, tokens), never falling.
        answers: None votes for nothing.
        right: whether each is right.
    """

    costs: tuple[float, ...]
    answers: tuple[Hashable | None, ...]
    right: tuple[bool, ...]

    def __post_init__(self) -> None:
        assert len(self.costs) == len(self.answers) == len(self.right), "one of each a sample"
        assert list(self.costs) == sorted(self.costs), "costs add up"


class Point(NamedTuple):
    """Accuracy of a budget a problem."""

    budget: float
    accuracy: float


def voted_right(problem: Spending, budget: float) -> bool:
    """Whether the plain vote of the samples that ended within `budget` is right; no vote is wrong."""
    inside = sum(cost <= budget for cost in problem.costs)
    ranked = majority(problem.answers[:inside])
    return bool(ranked) and problem.right[ranked[0].first]


def accuracy_curve(problems: Sequence[Spending], points: int = 60) -> list[Point]:
    """Accuracy of the plain vote at every budget from 0 to the greatest cost, a step function of it.

    Args:
        problems: at least one.
        points: budgets at most, evenly over the sorted costs; the last one is the greatest cost.

    Raises:
        ValueError: no problem, or fewer than two points.
    """
    if not problems or points < 2:
        raise ValueError(f"a curve of {len(problems)} problems and {points} points cannot be drawn")
    costs = sorted({cost for problem in problems for cost in problem.costs})
    kept = costs
    if len(costs) > points - 1:
        kept = [costs[(number + 1) * len(costs) // (points - 1) - 1] for number in range(points - 1)]
    return [
        Point(budget, sum(voted_right(problem, budget) for problem in problems) / len(problems))
        for budget in [0.0, *kept]
    ]


def by_tokens(tokens: Sequence[int]) -> tuple[float, ...]:
    """What samples cost that were drawn one after the other: the running sum of their tokens."""
    return tuple(map(float, accumulate(tokens)))
