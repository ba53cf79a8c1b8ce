"""Votes with weights, and the two ways to choose by one candidate alone.

An answer's total is the sum of its candidates' weights. Ties are decided in this order:

1. the greater total, where totals within 1e-9 of each other, relative to the greatest, are equal;
2. more candidates;
3. the answer whose first candidate came first.

So equal weights are the plain majority vote (Wang et al. 2022, "Self-Consistency Improves Chain of Thought
Reasoning"), a common factor of all weights changes nothing, and the order of the candidates matters in a
full tie alone. A candidate without an answer has no vote.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

DIGITS = 9
"""Decimal digits to which totals are compared, so that the rounding of a sum decides nothing."""


@dataclass(frozen=True)
class Standing:
    """How one answer stands.

    Args:
        answer: as its candidates give it.
        total: sum of its weights, where the greatest weight of all candidates is 1.
        count: its candidates.
        first: index of its first candidate.
    """

    answer: Hashable
    total: float
    count: int
    first: int


def standings(answers: Sequence[Hashable | None], weights: Sequence[float]) -> list[Standing]:
    """Every answer with its total, the winner first; empty without an answer.

    Args:
        answers: of the candidates in order of arrival; None has no vote.
        weights: one a candidate. A weight that is negative or not finite counts as 0; where all are 0, the
            number of candidates decides.
    """
    assert len(answers) == len(weights), (len(answers), len(weights))
    members: dict[Hashable, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is not None:
            members.setdefault(answer, []).append(index)
    usable = [weight if math.isfinite(weight) and weight > 0 else 0.0 for weight in weights]
    greatest = max((usable[index] for indices in members.values() for index in indices), default=0.0)
    # Divided before they are summed: the sum of large weights would overflow.
    shares = [weight / greatest if greatest else 0.0 for weight in usable]
    found = [
        Standing(answer, math.fsum(shares[index] for index in indices), len(indices), indices[0])
        for answer, indices in members.items()
    ]
    best = max((one.total for one in found), default=0.0) or 1.0
    return sorted(found, key=lambda one: (-round(one.total / best, DIGITS), -one.count, one.first))


def majority(answers: Sequence[Hashable | None]) -> list[Standing]:
    """`standings` with equal weights: the plain vote."""
    return standings(answers, [1.0] * len(answers))


def best_of_n(answers: Sequence[Hashable | None], scores: Sequence[float]) -> list[Standing]:
    """`standings` by each answer's best score alone (Cobbe et al. 2021); a score may be any finite number.

    Equal best scores are decided by the number of candidates, then by the first arrival. A score that is not
    finite is worse than any other; where no score is finite, this is the plain vote.
    """
    assert len(answers) == len(scores), (len(answers), len(scores))
    pairs = zip(answers, scores, strict=True)
    known = sorted({score for answer, score in pairs if answer is not None and math.isfinite(score)})
    if not known:
        return majority(answers)
    places = {score: place for place, score in enumerate(known, start=1)}
    best: dict[Hashable, int] = {}
    for answer, score in zip(answers, scores, strict=True):
        if answer is not None:
            best[answer] = max(best.get(answer, 0), places.get(score, 0))
    plain = majority(answers)
    # `total` tells the rank of the answer's best score, 1 for the winner.
    ranked = sorted(plain, key=lambda one: (-best[one.answer], -one.count, one.first))
    return [Standing(one.answer, best[one.answer] / len(known), one.count, one.first) for one in ranked]
