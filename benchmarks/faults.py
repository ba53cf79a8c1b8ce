"""What contests survive: `python -m benchmarks.faults`.

Real runs go through gateway, server, engine and sandbox as processes; beside them the same faults with the
engine in the contest's own process, as public notebooks have it. Virtual runs are whole contests of up to
five hours on a virtual clock.
"""

import json
import logging
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import faults_real, faults_virtual
from submission.cli import run
from submission.files import write_text

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()

IN_PROCESS = (
    "none",
    "exit",
    "kill",
    "halt",
    "hang",
    "stall",
    "refuse",
    "start exit",
    "start memory",
    "start hang",
)
"""Faults that an engine in the contest's process can have."""


def real(runs: int, workers: int, *, supervised: bool = True) -> list[faults_real.Run]:
    """So many runs, the faults in turn, several at a time (each mostly waits)."""
    faults = faults_real.FAULTS if supervised else IN_PROCESS
    faults_real.prepare()
    with ThreadPoolExecutor(workers) as pool:
        futures = [
            pool.submit(faults_real.play, faults[number % len(faults)], number, supervised)
            for number in range(runs)
        ]
        title = "real runs" if supervised else "the engine in the contest's process"
        return [future.result() for future in track(futures, title, console=console)]


def virtual(runs: int, first: int = 0) -> dict[str, Any]:
    """So many virtual contests from seed `first` on: how many, and what was broken by seed."""
    broken: dict[int, list[str]] = {}
    answered = problems = 0
    engines: dict[str, int] = defaultdict(int)
    for seed in range(first, first + runs):
        plan = faults_virtual.plan(seed)
        played = faults_virtual.play(plan)
        answered += played.answered
        problems += len(plan.recording)
        engines[plan.engine] += 1
        if played.broken:
            broken[seed] = played.broken
    return {
        "runs": runs,
        "problems": problems,
        "answered": answered,
        "broken": {str(seed): why for seed, why in broken.items()},
        "engines": dict(engines),
    }


def virtual_in_parallel(runs: int, workers: int) -> dict[str, Any]:
    """`virtual` over several processes."""
    share = max(1, -(-runs // (workers * 8)))
    starts = list(range(0, runs, share))
    with ProcessPoolExecutor(workers, initializer=_quiet) as pool:
        futures = [pool.submit(virtual, min(share, runs - start), start) for start in starts]
        parts = [future.result() for future in track(futures, "virtual runs", console=console)]
    whole: dict[str, Any] = {"runs": 0, "problems": 0, "answered": 0, "broken": {}, "engines": {}}
    for part in parts:
        for key in ("runs", "problems", "answered"):
            whole[key] += part[key]
        whole["broken"] |= part["broken"]
        for engine, count in part["engines"].items():
            whole["engines"][engine] = whole["engines"].get(engine, 0) + count
    return whole


def _quiet() -> None:
    logging.disable(logging.CRITICAL)


def summary(runs: Sequence[faults_real.Run]) -> dict[str, dict[str, Any]]:
    """By fault: runs, those that kept every promise, problems, those that the engine answered."""
    found: dict[str, dict[str, Any]] = {}
    for one in runs:
        row = found.setdefault(one.fault, {"runs": 0, "kept": 0, "problems": 0, "right": 0, "broken": []})
        row["runs"] += 1
        row["kept"] += not one.broken
        row["problems"] += len(one.answers)
        row["right"] += one.right
        row["broken"] += [f"seed {one.seed}: {why}" for why in one.broken]
    return found


def section(figures: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    played = figures["virtual"]
    lines = [
        "Contests of seconds through the real gateway, server, warden, engine and sandbox, one fault a run,",
        "at a random place. Kept: every answer in range, the end in time, known answers kept, no process",
        "left. Beside them the same faults with the engine in the contest's process, as in public notebooks.",
        "",
        "| Fault | Runs | Kept | Problems answered | In-process engine: runs | Kept | Answered |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for fault, row in figures["real"].items():
        peer = figures["peer"].get(fault)
        beside = "| | | " if peer is None else f"| {peer['runs']} | {peer['kept']} | {_share(peer)} "
        lines.append(f"| {fault} | {row['runs']} | {row['kept']} | {_share(row)} {beside}|")
    return [
        *lines,
        "",
        f"On the virtual clock: {played['runs']:,} contests of 1 to 50 problems and up to five hours, "
        f"{played['problems']:,} problems; {len(played['broken'])} contests broke a promise.",
    ]


def _share(row: dict[str, Any]) -> str:
    return f"{row['right']} of {row['problems']}"


@app.command()
def main(
    runs: Annotated[int, typer.Option(help="Real runs.")] = 260,
    peer_runs: Annotated[int, typer.Option(help="Runs with the engine in the contest's process.")] = 40,
    virtual_runs: Annotated[int, typer.Option("--virtual", help="Contests on the virtual clock.")] = 10_000,
    workers: Annotated[int, typer.Option(help="Real runs at a time.")] = 6,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
) -> None:
    """Play contests with faults and say which promises were kept; exit code 1 where one was not."""
    ours = summary(real(runs, workers))
    peer = summary(real(peer_runs, workers, supervised=False))
    played = virtual_in_parallel(virtual_runs, 2)
    table = Table("fault", "runs", "kept", "answered", "in-process: runs", "kept", "answered")
    for fault, row in ours.items():
        beside = peer.get(fault)
        cells = ["", "", ""] if beside is None else [str(beside["runs"]), str(beside["kept"]), _share(beside)]
        table.add_row(fault, str(row["runs"]), str(row["kept"]), _share(row), *cells)
    console.print(table)
    console.print(f"virtual: {played['runs']} contests, {len(played['broken'])} broke a promise")
    if out is not None:
        write_text(out, json.dumps({"real": ours, "peer": peer, "virtual": played}))
    broken = [why for row in ours.values() for why in row["broken"]] + list(played["broken"].values())
    for why in broken[:20]:
        console.print(str(why), markup=False)
    if broken:
        sys.exit(1)


if __name__ == "__main__":
    run(app)
