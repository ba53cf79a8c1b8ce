"""Choosing among N recorded attempts: best of N and weighted votes, the plain vote, the oracle."""

import math
from collections.abc import Sequence
from typing import Any, get_args

from kit.prm.metrics import expected_calibration_error, reliability
from submission.prm.aggregate import Aggregate
from submission.selection.fitting import LabelledProblem, available, fit
from submission.selection.rule import PLAIN, Rule, prm_scores, ranked
from submission.selection.statistics import (
    attempt_correlation,
    effective_attempts,
    expected_at_k,
    mean_interval,
    pass_at_k,
)
from submission.selection.voting import majority

SIZES = (1, 2, 4, 8, 16, 32, 64)
DRAWS = 100
"""Subsets of N attempts, where there are too many to take all."""
ENUMERATED = 100
"""Subsets up to which all are taken."""
REPEATS = 4_000
BINS = 10
MAJORITY, ORACLE = "majority", "oracle"


def rules_of(problems: Sequence[LabelledProblem]) -> dict[str, Rule]:
    """The rules to compare by name, the plain vote first.

    With one score a candidate all aggregates are the same, and one stands for all.
    """
    rules = {MAJORITY: PLAIN}
    methods = available(problems)
    if "prm" in methods:
        most = max(len(one.steps) for problem in problems for one in problem.candidates)
        hows: tuple[Aggregate, ...] = get_args(Aggregate) if most > 1 else ("min",)
        for how in hows:
            name = how if most > 1 else "score"
            rules[f"best of N, {name}"] = Rule(method="best_of_n", aggregate=how)
            rules[f"weighted, {name}"] = Rule(method="prm", aggregate=how)
    for method in methods:
        if method not in ("majority", "prm", "best_of_n"):
            rules[f"weighted, {method}"] = Rule(method=method)
    return rules


def accuracy_at(
    problem: LabelledProblem, rule: Rule, size: int, *, draws: int = DRAWS, seed: int = 0
) -> float:
    """Chance that the rule chooses a right answer from `size` of the problem's attempts.

    The same subsets are drawn for every rule, so that rules are compared on the same attempts.
    """
    candidates, right = problem.candidates, problem.right
    if len(majority([one.answer for one in candidates])) < 2:
        # Nothing to choose: whoever answers gives the one answer that there is.
        rule = PLAIN

    def chosen(subset: Sequence[int]) -> float:
        found = ranked([candidates[index] for index in subset], rule)
        return float(bool(found) and right[subset[found[0].first]])

    return expected_at_k(len(candidates), size, chosen, seed=seed, enumerated=ENUMERATED, draws=draws)


def curves(
    problems: Sequence[LabelledProblem], *, draws: int = DRAWS, seed: int = 0, repeats: int = REPEATS
) -> list[dict[str, Any]]:
    """Accuracy of every rule and of the oracle at every N that all problems have attempts for.

    Returns:
        Rows `name`, `size`, `mean`, `low`, `high`; `gain` over the plain vote at the same N with `gain_low`
        and `gain_high`. All intervals are 95 % bootstraps over problems, the gains paired.
    """
    least = min(len(one.candidates) for one in problems)
    rules = rules_of(problems)
    rows = []
    for size in [one for one in SIZES if one < least] + [min(least, SIZES[-1])]:
        values = {
            name: [accuracy_at(one, rule, size, draws=draws, seed=seed) for one in problems]
            for name, rule in rules.items()
        }
        values[ORACLE] = [pass_at_k(len(one.right), sum(one.right), size) for one in problems]
        for name, found in values.items():
            mean = mean_interval(found, repeats=repeats, seed=seed)
            gains = [one - plain for one, plain in zip(found, values[MAJORITY], strict=True)]
            gain = mean_interval(gains, repeats=repeats, seed=seed)
            rows.append(
                {
                    "name": name,
                    "size": size,
                    "mean": mean.mean,
                    "low": mean.low,
                    "high": mean.high,
                    "gain": gain.mean,
                    "gain_low": gain.low,
                    "gain_high": gain.high,
                }
            )
    return rows


def calibration_curves(problems: Sequence[LabelledProblem]) -> list[dict[str, Any]]:
    """For every aggregate, how often candidates of a score are right, and the ECE; empty without scores."""
    if "prm" not in available(problems):
        return []
    most = max(len(one.steps) for problem in problems for one in problem.candidates)
    hows: tuple[Aggregate, ...] = get_args(Aggregate) if most > 1 else ("min",)
    rows = []
    for how in hows:
        pairs = [
            (score, right)
            for problem in problems
            for score, right in zip(prm_scores(problem.candidates, how), problem.right, strict=True)
            if math.isfinite(score)
        ]
        curve = reliability([score for score, _ in pairs], [right for _, right in pairs], BINS)
        rows.append(
            {
                "name": how if most > 1 else "score",
                "ece": expected_calibration_error(curve),
                "reliability": [[one.confidence, one.accuracy, one.size] for one in curve if one.size],
            }
        )
    return rows


def figures(
    name: str, problems: Sequence[LabelledProblem], *, draws: int = DRAWS, seed: int = 0, folds: int = 5
) -> dict[str, Any]:
    """All that the page and the plot show of one file of attempts, ready for JSON."""
    sizes = [len(one.candidates) for one in problems]
    rho = attempt_correlation([one.right for one in problems]) if min(sizes) > 1 < len(problems) else math.nan
    worth = effective_attempts(max(sizes), rho)
    fitted = fit(problems, folds=min(folds, len(problems)), seed=seed).calibration
    return {
        "name": name,
        "problems": len(problems),
        "attempts": max(sizes),
        "pass_1": math.fsum(sum(one.right) / len(one.right) for one in problems) / len(problems),
        "correlation": None if math.isnan(rho) else rho,
        "effective": None if math.isnan(worth) else worth,
        "methods": [method for method in available(problems) if method != "majority"],
        "curves": curves(problems, draws=draws, seed=seed),
        "reliability": calibration_curves(problems),
        "calibration": {**fitted.model_dump(mode="json"), "rule": str(fitted.parameters)},
    }
