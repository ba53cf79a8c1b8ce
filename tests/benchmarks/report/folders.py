"""Folders of finished runs without an engine: outcomes by hand, figures and tables by the run's own code."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.run.gathering import gather
from benchmarks.run.judging import Judge
from benchmarks.run.outcomes import Outcome
from benchmarks.run.sets import Item
from benchmarks.run.summary import summary
from benchmarks.run.tables import write_tables
from submission.answers import parse_gold
from submission.journal import read_journal
from submission.selection.rule import Rule

HOSTILE = "<script>document.title = 'hacked'</script><img src=x onerror=\"document.title = 'hacked'\">"


@dataclass(frozen=True)
class Problem:
    """A problem, its gold answer, and its samples' answers in each repeat."""

    id: str
    gold: int
    repeats: Sequence[Sequence[int | None]]


def problems_of(right: Sequence[Sequence[int]], samples: int = 3) -> list[Problem]:
    """Problems p0, p1, …, all of whose samples are right (1) or wrong (0) in each repeat.

    Args:
        right: [repeats, problems].
        samples: of each.
    """
    return [
        Problem(f"p{number}", number, [[number if cell else 999] * samples for cell in column])
        for number, column in enumerate(zip(*right, strict=True))
    ]


def write_run(
    folder: Path,
    problems: Sequence[Problem],
    *,
    name: str = "own",
    samples: int | None = None,
    contaminated: Mapping[str, Sequence[str]] | None = None,
    knowing: bool | None = None,
    **changed: Any,
) -> Path:
    """A run of 60 minutes (or so many `samples`) as `benchmarks.run` leaves it; `changed` results.

    Its PRM scores all samples alike, or right ones high where it is `knowing`, or low (False); only then
    results tell of its rule.
    """
    folder.mkdir()
    repeats = len(problems[0].repeats)
    outcomes = [one for repeat in range(repeats) for one in _contest(folder, problems, name, repeat, knowing)]
    if samples is not None:
        outcomes = [one for one in outcomes if one.samples]
    config = {
        "mode": "contest" if samples is None else "samples",
        "bundle": "demo",
        "bundle_digest": "0123456789abcdef",
        "time_limit": 3600.0 if samples is None else None,
        "samples": samples,
        "optimization": "",
        "settings": ["solver.temperature=1"],
        "team": None,
        "seed": 0,
        "shuffle": True,
        "sets": {
            name: {
                "problems": len(problems),
                "digest": ",".join(one.id for one in problems),
                "source": "own.csv",
                "left_out": 0,
            }
        },
        "repeat": repeats,
        **changed,
    }
    rule = Rule(method="prm")
    results = {
        **config,
        "prm_rule": None if knowing is None else str(rule),
        "contests": [
            {
                "set": name,
                "repeat": repeat,
                "elapsed": 1800.0,
                "time_limit": 3600.0,
                "ready": 60.0,
                "starts": 1,
                "faults": [],
                "notes": [],
                "order": [],
            }
            for repeat in range(repeats)
        ],
        "figures": summary(outcomes, samples=samples, rule=rule, contaminated=contaminated or {}, seed=0),
    }
    environment = {"date": "2026-01-02T03:04:05+00:00", "gpus": [], "cores": 2, "memory_gib": 8.0}
    write_tables(folder, outcomes, results, environment)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "problems.json").write_text(json.dumps({name: {one.id: HOSTILE for one in problems}}))
    return folder


def _contest(
    folder: Path, problems: Sequence[Problem], name: str, repeat: int, knowing: bool | None
) -> list[Outcome]:
    """Play one contest's journal: a minute of start-up, a minute a problem, a tool call and scores each."""
    lines: list[dict[str, Any]] = [{"type": "contest", "digest": "d"}]
    for number, one in enumerate(problems):
        begun, answers = 60.0 * (number + 1), one.repeats[repeat]
        lines.append({"type": "problem", "id": one.id, "elapsed": begun})
        lines.append({"type": "budget", "id": one.id, "elapsed": begun, "seconds": 60.0})
        for attempt, answer in enumerate(answers):
            lines.append(
                {
                    "type": "sample",
                    "id": one.id,
                    "attempt": attempt,
                    "role": "solver",
                    "elapsed": begun + 10 * (attempt + 1),
                    "finish": "stop",
                    "tokens": 1000,
                    "seconds": 10.0,
                    "answer": answer,
                    "text": f"{HOSTILE} so \\boxed{{{answer}}} \ud800",
                    "calls": [{"code": f"print('{HOSTILE}')", "output": "42", "seconds": 0.5}],
                }
            )
        sure = [
            0.5 if knowing is None else 0.9 if (answer == one.gold) is knowing else 0.1 for answer in answers
        ]
        scores = [[attempt, 0.9, least] for attempt, least in enumerate(sure)]
        lines.append(
            {
                "type": "answer",
                "id": one.id,
                "answer": answers[0] or 0,
                "source": "vote",
                "rule": "prm",
                "plain": answers[0],
                "scores": scores,
                "elapsed": begun + 50,
                "seconds": 50.0,
                "tokens": 3000,
                "stopped": "attempts",
                "opinions": [
                    {"role": "verifier", "task": "verify", "answer": 1, "right": True, "text": HOSTILE}
                ],
            }
        )
    path = folder / "contests" / f"{name}-{repeat}" / "submission.journal.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"type": "end"}]))
    played = gather(read_journal(path)).problems
    found = []
    with Judge() as judge:
        for one in problems:
            mine, gold = played[one.id], parse_gold(str(one.gold))
            verdicts = judge.samples(mine.samples, gold, 0, 999, last_number=False)
            answer = one.repeats[repeat][0]
            found.append(
                Outcome(
                    set=name,
                    repeat=repeat,
                    item=Item(one.id, HOSTILE, gold),
                    samples=mine.samples,
                    verdicts=tuple(verdicts),
                    answer=None if answer is None else str(answer),
                    right=answer == one.gold,
                    source="vote",
                    seconds=50.0,
                    stopped="attempts",
                    begun=mine.begun,
                    answered=mine.answered,
                )
            )
    return found
