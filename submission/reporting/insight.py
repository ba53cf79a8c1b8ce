"""What choosing, agreeing and reusing did in a contest: next to the score, what it leaves on the table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from submission.reporting.results import ContestResults, Result
from submission.selection.statistics import attempt_correlation, effective_attempts, selection_loss


@dataclass(frozen=True)
class Insight:
    """Of the graded problems that were sampled; what cannot be known is None.

    Args:
        problems: how many.
        chosen: right answers among them.
        plain: right answers of the plain vote.
        possible: problems with a right attempt (pass@N).
        loss: selection loss, (possible - chosen) / problems.
        correlation: of the attempts at one problem (`attempt_correlation`).
        effective: independent attempts that the mean number of attempts is worth (N_eff).
        cached: share of all prompt tokens that the engine's prefix cache held.
        calls, failures: of tools.
        opinions: of verifiers and selectors.
        swaps: problems for whose scores engine and PRM changed places (`prm.swap`).
        swap: seconds of one, mean; None without any.
        unscored: problems that scores could have decided and that got none.
    """

    problems: int
    chosen: int
    plain: int | None
    possible: int
    loss: float | None
    correlation: float | None
    effective: float | None
    cached: float | None
    calls: int
    failures: int
    opinions: int
    swaps: int = 0
    swap: float | None = None
    unscored: int = 0


def insight(outcome: ContestResults) -> Insight:
    """Gather it from the results of a contest."""
    graded = [result for result in outcome.results if result.right is not None and result.samples]
    right = [_right(result) for result in graded]
    chosen = [bool(result.right) for result in graded]
    correlation, effective = _correlation(right)
    samples = [sample for result in outcome.results for sample in result.samples]
    prompted = sum(sample.prompted for sample in samples)
    swaps = [result.swap for result in outcome.results if result.swap]
    known = [result for result in graded if result.plain is not None]
    return Insight(
        problems=len(graded),
        chosen=sum(chosen),
        plain=sum(result.plain == result.problem.answer for result in known) if known else None,
        possible=sum(map(any, right)),
        loss=selection_loss(right, chosen) if graded else None,
        correlation=correlation,
        effective=effective,
        cached=sum(sample.cached for sample in samples) / prompted if prompted else None,
        calls=sum(len(sample.calls) for sample in samples),
        failures=sum(call.failed for sample in samples for call in sample.calls),
        opinions=sum(len(result.opinions) for result in outcome.results),
        swaps=len(swaps),
        swap=math.fsum(swaps) / len(swaps) if swaps else None,
        unscored=sum(bool(result.unscored) for result in outcome.results),
    )


def _right(result: Result) -> list[bool]:
    return [sample.answer == result.problem.answer for sample in result.samples]


def _correlation(right: Sequence[Sequence[bool]]) -> tuple[float | None, float | None]:
    try:
        found = attempt_correlation(right)
    except ValueError:  # too few problems or attempts to say
        return None, None
    if math.isnan(found):
        return None, None
    attempts = sum(map(len, right)) / len(right)
    return found, effective_attempts(round(attempts), found)
