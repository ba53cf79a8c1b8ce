"""Policies for one problem compared on recorded and made-up attempts, on a virtual clock.

    python -m benchmarks.policies [--replays N] [--seed N] [--only NAME] [--json FILE] [RECORDING ...]

Each replay is a contest of all problems of a set in a new order, their attempts drawn anew from the pool with
replacement; every policy plays the same draws. Time is engine time (see `benchmarks.replay`), relative to
eight attempts at every problem, the majority of which is the reference. "Ours" plays under the ledger, with
`SHARE` of the reference's expected time for the whole contest and up to 16 attempts a problem; the line after
it is the plain vote with a fixed number of attempts that takes the same time.
"""

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from benchmarks.attempts import HELD_OUT, POPULATIONS, Problems, make_attempts, mean_seconds, read_attempts
from benchmarks.replay_contest import ContestOutcome, replay_contest
from benchmarks.shared import shared_file
from submission.cli import run
from submission.files import write_text
from submission.policies import (
    Policy,
    adaptive_consistency,
    deepconf,
    first_agree,
    fixed,
    ours,
    uncatchable,
)

SHOWN = ("first 4 agree", "uncatchable", "adaptive consistency", "DeepConf")
"""Policies that the page shows beside ours: points, and time in brackets."""
SHARE = 0.70
REFERENCE = 8
MOST = 16
RECORDINGS = {
    "Qwen2.5-Math-7B, MATH": "samples/qwen2.5-math-7b_math_8samples.jsonl",
    "gpt-oss-120b, AIMO 3": "samples/gpt-oss-120b_cot_aimo3.parquet",
    "gpt-oss-20b with Python, AIMO 3": "samples/gpt-oss-20b_tir_aimo3.parquet",
}


@dataclass(frozen=True)
class Row:
    """One policy on one set.

    Args:
        policy: its name.
        accuracy: mean share of problems answered right.
        difference: to the reference, paired over replays; `interval` is half of its 95 % interval.
        engine: engine time over the reference's; `wall`: the same of wall time.
    """

    policy: str
    accuracy: float
    difference: float
    interval: float
    engine: float
    wall: float


@dataclass(frozen=True)
class Player:
    """A policy and the contest it plays in."""

    policy: Policy
    max_attempts: int = REFERENCE
    limited: bool = False
    parallel: int = 1


PLAYERS: dict[str, Player] = {
    f"majority of {REFERENCE}": Player(fixed(REFERENCE)),
    "first 4 agree": Player(first_agree(4)),
    "uncatchable": Player(uncatchable),
    "adaptive consistency": Player(adaptive_consistency(), MOST),
    "DeepConf": Player(deepconf(), MOST),
    "ours": Player(ours, MOST, limited=True),
}


def draws(problems: Problems, replays: int, seed: int) -> Iterator[Problems]:
    """One contest a replay: the problems in a new order, `MOST` attempts at each, drawn with replacement."""
    random = Random(seed)
    for _ in range(replays):
        order = random.sample(problems, len(problems))
        yield [random.choices(attempts, k=MOST) for attempts in order]


def play_all(
    problems: Problems, player: Player, replays: int, seed: int, share: float = SHARE
) -> list[ContestOutcome]:
    """The outcome of every replay."""
    whole = mean_seconds(problems) * REFERENCE * len(problems)
    return [
        replay_contest(
            contest,
            player.policy,
            engine_seconds=share * whole if player.limited else math.inf,
            max_attempts=player.max_attempts,
            parallel=player.parallel,
        )
        for contest in draws(problems, replays, seed)
    ]


def row(name: str, found: list[ContestOutcome], reference: list[ContestOutcome], problems: int) -> Row:
    """Means over replays."""
    gaps = [(one.right - other.right) / problems for one, other in zip(found, reference, strict=True)]
    spread = statistics.stdev(gaps) if len(gaps) > 1 else math.inf
    return Row(
        policy=name,
        accuracy=statistics.fmean(one.right for one in found) / problems,
        difference=statistics.fmean(gaps),
        interval=1.96 * spread / math.sqrt(len(gaps)),
        engine=_total(found, "engine_seconds") / _total(reference, "engine_seconds"),
        wall=_total(found, "wall_seconds") / _total(reference, "wall_seconds"),
    )


def compare(problems: Problems, replays: int, seed: int = 0) -> list[Row]:
    """A row for each policy, and last the plain vote at the time that ours took."""
    found = {name: play_all(problems, player, replays, seed) for name, player in PLAYERS.items()}
    reference = found[f"majority of {REFERENCE}"]
    rows = [row(name, outcomes, reference, len(problems)) for name, outcomes in found.items()]
    return [*rows, equal_time(problems, rows[-1].engine, reference, replays, seed)]


def equal_time(
    problems: Problems, engine: float, reference: list[ContestOutcome], replays: int, seed: int
) -> Row:
    """The plain vote at `engine` of the reference's time: a mix of N and N + 1 attempts."""
    few = min(max(1, math.floor(engine * REFERENCE)), MOST - 1)
    weight = min(max(engine * REFERENCE - few, 0.0), 1.0)
    less, more = (
        row("", play_all(problems, Player(fixed(count), count), replays, seed), reference, len(problems))
        for count in (few, few + 1)
    )

    def mixed(one: float, other: float) -> float:
        return (1 - weight) * one + weight * other

    return Row(
        f"majority of {few + weight:.1f}",
        mixed(less.accuracy, more.accuracy),
        mixed(less.difference, more.difference),
        max(less.interval, more.interval),
        mixed(less.engine, more.engine),
        mixed(less.wall, more.wall),
    )


def _total(outcomes: Sequence[ContestOutcome], field: str) -> float:
    return sum(float(getattr(outcome, field)) for outcome in outcomes)


def table(name: str, problems: int, replays: int, rows: Sequence[Row]) -> list[str]:
    """A Markdown table."""
    lines = [
        f"{name}: {problems} problems, {replays} replays",
        "",
        "| Policy | Right (%) | To majority of 8 | Engine time | Wall time |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {item.policy} | {100 * item.accuracy:.2f} | {100 * item.difference:+.2f} ± "
        f"{100 * item.interval:.2f} | {item.engine:.2f} | {item.wall:.2f} |"
        for item in rows
    ]
    return [*lines, ""]


def all_sets(recordings: Sequence[Path]) -> dict[str, Problems]:
    """The recordings that are here or were named, then the made-up populations."""
    known = {name: shared_file(file) for name, file in RECORDINGS.items()}
    sets = {name: read_attempts(path) for name, path in known.items() if path}
    sets |= {path.name: read_attempts(path) for path in recordings}
    sets |= {name: make_attempts(population, 40, 64, 1) for name, population in POPULATIONS.items()}
    held_out = {
        name: make_attempts(population, problems, 64, seed)
        for name, (population, problems, seed) in HELD_OUT.items()
    }
    return sets | held_out


def section(figures: dict[str, Any]) -> list[str]:
    """Markdown for BENCHMARKS.md, from what `--json` wrote."""
    lines = [
        "Recorded and made-up attempts replayed as whole contests: problems in random order, attempts drawn",
        f"anew with replacement, all policies on the same draws (seed {figures['seed']}). Points to the",
        "majority of eight are paired, with 95 % intervals; time is relative to its engine time. Ours has at",
        f"most {figures['share']:.2f} of that; beside it the plain vote at the time ours took. Aim: on the",
        "recordings at least the majority of eight, and never below the plain vote at equal time. Sets",
        "called held out had no say in any setting.",
        "",
        f"| Set | Problems | Replays | {' | '.join(SHOWN)} | Ours: points | Time | At equal time |",
        f"|---|--:|--:|{'--:|' * (len(SHOWN) + 3)}",
    ]
    for one in figures["sets"]:
        rows = {item["policy"]: item for item in one["rows"]}
        found, equal = rows["ours"], one["rows"][-1]
        others = " | ".join(
            f"{100 * rows[name]['difference']:+.2f} ({rows[name]['engine']:.2f})" for name in SHOWN
        )
        lines.append(
            f"| {one['name']} | {one['problems']} | {one['replays']} | {others} "
            f"| {100 * found['difference']:+.2f} ± {100 * found['interval']:.2f} | {found['engine']:.2f} "
            f"| {100 * equal['difference']:+.2f} |"
        )
    return lines


def main() -> None:
    """Entry point of `python -m benchmarks.policies`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def policies(
        recordings: Annotated[list[Path] | None, typer.Argument(help="More recorded attempts.")] = None,
        replays: Annotated[int, typer.Option(min=2, help="Contests a set of recorded attempts.")] = 1_000,
        seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
        only: Annotated[str, typer.Option(help="Sets whose name holds this.")] = "",
        json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    ) -> None:
        """Print a table for each set; a made-up one, with its larger pools, gets a tenth of the replays."""
        figures: dict[str, Any] = {"seed": seed, "share": SHARE, "sets": []}
        for name, problems in all_sets(recordings or []).items():
            if only.lower() not in name.lower():
                continue
            made = name in POPULATIONS or name in HELD_OUT
            count = max(2, replays // 10) if made else replays
            rows = compare(problems, count, seed)
            typer.echo("\n".join(table(name, len(problems), count, rows)))
            found = {
                "name": name,
                "problems": len(problems),
                "replays": count,
                "rows": list(map(asdict, rows)),
            }
            figures["sets"].append(found)
        if json_path is not None:
            write_text(json_path, json.dumps(figures, indent=1) + "\n")

    run(app)


if __name__ == "__main__":
    main()
