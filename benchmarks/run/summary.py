"""Figures of a run from its outcomes, set by set, ready for JSON. Pure."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.best_of_n import accuracy_at
from benchmarks.run.gathering import ENDED
from benchmarks.run.outcomes import Outcome
from benchmarks.statistics.accuracy import accuracy_interval
from benchmarks.statistics.budgets import Spending, accuracy_curve, by_tokens
from benchmarks.statistics.paired import discordance, least_difference
from benchmarks.statistics.twice import twice_run
from submission.selection.candidate import Candidate
from submission.selection.fitting import LabelledProblem
from submission.selection.rule import PLAIN, Rule
from submission.selection.statistics import (
    Interval,
    attempt_correlation,
    effective_attempts,
    pass_at_k,
    selection_loss,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DRAWS, LEAST_DRAWS, ALL_DRAWS = 400, 50, 20_000
"""Subsets of k samples of a problem at most and at least, and of all problems, where not all can be taken:
the noise of the draws evens out over problems."""


def summary_of_set(
    outcomes: Sequence[Outcome],
    *,
    samples: int | None,
    rule: Rule | None = None,
    contaminated: Collection[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of one set.

    Args:
        outcomes: of all its problems in all repeats; each repeat has the same problems in the same order.
        samples: of an unlimited run, a problem; None for contests.
        rule: how PRM@k chooses; None without scores.
        contaminated: ids of problems that training has seen.
        seed: of every bootstrap and every draw of subsets.
    """
    repeats = by_repeat(outcomes)
    right = _table([[float(one.right) for one in group] for group in repeats])
    found: dict[str, Any] = {
        "problems": right.shape[1],
        "repeats": right.shape[0],
        "accuracy": interval_facts(accuracy_interval(right, seed=seed)),
        "right": [int(row.sum()) for row in right],
        "tokens": [sum(one.tokens for one in group) for group in repeats],
        "attempts": _attempts(outcomes),
        "curves": curves(outcomes),
    }
    if samples is None:
        found |= _contest(repeats, right)
    else:
        found["at_k"] = at_k(repeats, samples, rule, seed=seed)
        whole = [sum(one.line.finish in ENDED for one in problem.samples) for problem in outcomes]
        found["missing"] = sum(max(0, samples - count) for count in whole)
    clean = [number for number, one in enumerate(repeats[0]) if one.item.id not in contaminated]
    if contaminated:
        found["contaminated"] = sorted(contaminated)
        found["accuracy_clean"] = (
            interval_facts(accuracy_interval(right[:, clean], seed=seed)) if clean else None
        )
    return found


def by_repeat(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Outcomes of each repeat, in order."""
    groups: dict[int, list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault(one.repeat, []).append(one)
    found = [groups[number] for number in sorted(groups)]
    assert len({tuple(one.item.id for one in group) for group in found}) == 1, "the same problems in each"
    return found


def interval_facts(found: Interval) -> dict[str, float]:
    """For JSON."""
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _contest(repeats: Sequence[Sequence[Outcome]], right: "npt.NDArray[np.float64]") -> dict[str, Any]:
    twice = {key: known(value) for key, value in asdict(twice_run(right)).items()}
    unanswered = [sum(one.source in ("default", "not recorded") for one in group) for group in repeats]
    found: dict[str, Any] = {"twice_run": twice, "unanswered": unanswered}
    if len(repeats) > 1:
        # Another bundle that is as fickle as this one, on the same problems.
        apart = discordance(right, right) * len(repeats) / (len(repeats) - 1)
        found["discordant"] = apart
        found["least_difference"] = known(least_difference(right.shape[1], min(1.0, apart)))
    found["timeline"] = [_timeline(group) for group in repeats]
    return found


def _timeline(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """When each problem of one contest was answered (minutes), and how many were right by then."""
    total, rows = 0, []
    for one in sorted(outcomes, key=lambda one: one.answered):
        total += one.right
        rows.append(
            {
                "id": one.item.id,
                "begun": one.begun / 60,
                "answered": one.answered / 60,
                "right": one.right,
                "total": total,
            }
        )
    return rows


def _attempts(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What single attempts are worth, and what choosing among them loses; None where it cannot be known."""
    tried = [one for one in outcomes if one.attempts]
    if not tried:
        return {"problems": 0}
    right = [[is_right for _, is_right in one.attempts] for one in tried]
    mean = math.fsum(map(len, right)) / len(right)
    pooled: dict[str, list[bool]] = {}
    for one, verdicts in zip(tried, right, strict=True):
        pooled.setdefault(one.item.id, []).extend(verdicts)
    try:
        rho = attempt_correlation(list(pooled.values()))
    except ValueError:  # too few problems or attempts to say
        rho = math.nan
    return {
        "problems": len(tried),
        "mean": mean,
        "pass_1": math.fsum(sum(one) / len(one) for one in right) / len(right),
        "possible": sum(map(any, right)) / len(right),
        "plain": sum(one.plain_right for one in tried) / len(tried),
        "selection_loss": selection_loss(right, [one.right for one in tried]),
        "correlation": known(rho),
        "effective": known(effective_attempts(max(1, round(mean)), rho)),
        "failed": sum(one.line.finish == "error" for problem in outcomes for one in problem.samples),
        "cut_off": sum(len(one.samples) - len(one.attempts) for one in outcomes),
    }


def curves(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Accuracy of the plain vote against minutes and against tokens of a problem; repeats count alike."""
    clock, bill = [], []
    for one in outcomes:
        answers = tuple(verdict.answer for verdict in one.verdicts)
        right = tuple(verdict.right for verdict in one.verdicts)
        minutes: list[float] = []
        for drawn in one.samples:
            minutes.append(max([drawn.ended_at / 60, *minutes[-1:]]))
        clock.append(Spending(tuple(minutes), answers, right))
        bill.append(Spending(by_tokens([drawn.line.tokens for drawn in one.samples]), answers, right))
    return {"minutes": accuracy_curve(clock), "tokens": accuracy_curve(bill)}


def at_k(
    repeats: Sequence[Sequence[Outcome]], samples: int, rule: Rule | None, *, seed: int = 0
) -> list[dict[str, Any]]:
    """pass@k, maj@k and, with scores, PRM@k for k = 1, 2, 4, … and all samples, with their intervals.

    A sample that is missing (its engine failed, its prompt did not fit) counts as one without an answer.
    """
    problems = [[_labelled(one, samples) for one in group] for group in repeats]
    sizes = [1 << power for power in range(samples.bit_length()) if 1 << power < samples] + [samples]
    draws = max(LEAST_DRAWS, min(DRAWS, ALL_DRAWS // len(problems[0])))
    rows = []
    for size in sizes:
        row: dict[str, Any] = {"k": size}
        values = {
            "pass": [[pass_at_k(len(p.right), sum(p.right), size) for p in group] for group in problems],
            "maj": [
                [accuracy_at(p, PLAIN, size, draws=draws, seed=seed) for p in group] for group in problems
            ],
        }
        if rule is not None:
            values["prm"] = [
                [accuracy_at(p, rule, size, draws=draws, seed=seed) for p in group] for group in problems
            ]
        for name, found in values.items():
            row[name] = interval_facts(accuracy_interval(_table(found), seed=seed))
        rows.append(row)
    return rows


def _labelled(outcome: Outcome, samples: int) -> LabelledProblem:
    attempts = list(outcome.attempts[:samples])
    attempts += [(Candidate(None, finished=False), False)] * (samples - len(attempts))
    return LabelledProblem(
        outcome.item.id, tuple(one for one, _ in attempts), tuple(right for _, right in attempts)
    )


def known(value: float) -> float | None:
    """None for what is not finite: JSON has no word for it."""
    return value if math.isfinite(value) else None


def _table(rows: Sequence[Sequence[float]]) -> "npt.NDArray[np.float64]":
    import numpy as np

    return np.asarray(rows, dtype=np.float64)


def summary(
    outcomes: Sequence[Outcome],
    *,
    samples: int | None,
    rule: Rule | None,
    contaminated: Mapping[str, Sequence[str]],
    seed: int,
) -> dict[str, Any]:
    """`summary_of_set` of every set, by name, in order of first appearance."""
    names = list(dict.fromkeys(one.set for one in outcomes))
    return {
        name: summary_of_set(
            [one for one in outcomes if one.set == name],
            samples=samples,
            rule=rule,
            contaminated=contaminated.get(name, ()),
            seed=seed,
        )
        for name in names
    }
