"""From contests that were played to the run's files and figures."""

from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.run.environment import environment
from benchmarks.run.judging import Judge
from benchmarks.run.outcomes import Outcome, outcomes_of
from benchmarks.run.plan import Plan, prm_rule
from benchmarks.run.playing import Finished
from benchmarks.run.scoring import score_rest
from benchmarks.run.summary import summary
from benchmarks.run.tables import write_tables


def evaluate(
    plan: Plan, finished: list[Finished], out: Path, seen: dict[str, list[str]], console: Console
) -> dict[str, Any]:
    """Judge all samples, write the run's files, give its figures."""
    rule = prm_rule(finished[0].setup) if plan.samples is not None else None
    outcomes: list[Outcome] = []
    with Judge() as judge:
        for one in finished:
            scores = score_rest(one, one.job.folder(out), console) if rule is not None else {}
            outcomes += outcomes_of(one, judge, scores, contest=plan.samples is None)
    results = {
        **plan.config(),
        "repeat": plan.repeat,
        "prm_rule": None if rule is None else str(rule),
        "contests": [_contest(one) for one in finished],
        "figures": summary(outcomes, samples=plan.samples, rule=rule, contaminated=seen, seed=plan.seed),
    }
    how = finished[0].setup.rule.aggregate
    write_tables(out, outcomes, results, environment(plan.bundle), how)
    return results


def _contest(one: Finished) -> dict[str, Any]:
    """What is told of each contest."""
    contest = one.contest
    return {
        "set": one.job.problems.name,
        "repeat": one.job.repeat,
        "elapsed": contest.elapsed,
        "time_limit": one.setup.settings.rules.time_limit,
        "ready": contest.ready,
        "starts": contest.starts,
        "faults": list(contest.faults),
        "notes": list(one.setup.notes),
        "order": [name for name, _ in sorted(contest.problems.items(), key=lambda pair: pair[1].begun)],
    }
