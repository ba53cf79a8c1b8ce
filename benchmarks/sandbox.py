"""Latency and memory of the sandbox beside a Jupyter kernel, in one run.

    python -m benchmarks.sandbox [--calls 300] [--fresh 30] [--workers 16] [--python PATH] [--json PATH]

A warm call runs `x + 1` in a session that has run before; ours and the kernel's take turns of `BLOCK` calls.
The kernel is driven by jupyter_client's blocking client, as agents do, in a process of its own. A fresh state
is: clear the session and run a first cell that imports numpy and sympy; for a kernel, start one and run it,
since a restart is what clears it. Memory is the proportional share (PSS) of the server and of all workers
after each has solved an equation with sympy: shared pages count once.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.peers.process import Peer, Python, open_peer
from submission.cli import run
from submission.files import write_text
from submission.sandbox import Sandbox
from submission.settings import SandboxSettings

WARM_LIMIT_MS, FRESH_LIMIT_MS, MEMORY_LIMIT_GB = 5.0, 40.0, 1.5
OURS, PEER = "ours", "kernel"
BLOCK = 10
"""Warm calls of a turn."""
FIRST = "import numpy, sympy\n1 + 1"
SOLVE = "import sympy\nx = sympy.symbols('x')\nsympy.solve(x**3 - 2*x - 1, x)"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


def milliseconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e3


def measure_warm(calls: int, peer: Peer) -> list[dict[str, list[float]]]:
    """Milliseconds of each warm call of both sides, turn by turn."""
    turns: list[dict[str, list[float]]] = []
    with Sandbox(SandboxSettings(workers=1)) as sandbox, sandbox.session() as session:
        session.run_sync("x = 41")
        peer.ask({"code": "x = 41", "times": 1})

        def ours(count: int) -> list[float]:
            return [milliseconds(lambda: session.run_sync("x + 1")) for _ in range(count)]

        def theirs(count: int) -> list[float]:
            reply = peer.ask({"code": "x + 1", "times": count})
            times: list[float] = reply["milliseconds"]
            return times

        ours(1), theirs(1)
        sides = {OURS: ours, PEER: theirs}
        for start in track(range(0, calls, BLOCK), "warm calls", console=console):
            order = list(sides)[:: -1 if len(turns) % 2 else 1]
            turns.append({name: sides[name](min(BLOCK, calls - start)) for name in order})
        said = session.run_sync("x + 1").value, peer.ask({"code": "x + 1", "times": 1})["value"]
    if said != ("42", "42"):
        raise ValueError(f"the sides answer 41 + 1 with {' and '.join(said)}: their times mean nothing")
    return turns


def measure_fresh(rounds: int, kernels: int, peer: Peer) -> list[dict[str, list[float]]]:
    """Milliseconds from clearing the state to the first cell's value, turn by turn.

    A turn is one kernel and its share of the `rounds` of ours.
    """
    turns: list[dict[str, list[float]]] = []
    with Sandbox(SandboxSettings(workers=1)) as sandbox, sandbox.session() as session:

        def fresh() -> None:
            session.reset()
            session.run_sync(FIRST)

        session.run_sync(SOLVE)
        peer.ask({"fresh": FIRST})  # the first start of all reads the packages from the disk
        for _ in track(range(kernels), "fresh states", console=console):
            ours = [milliseconds(fresh) for _ in range(max(1, rounds // kernels))]
            turns.append({OURS: ours, PEER: peer.ask({"fresh": FIRST})["milliseconds"]})
    return turns


def of_all(turns: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Each side's times in all turns."""
    return {name: [time for turn in turns for time in turn[name]] for name in (OURS, PEER)}


def ratios(turns: Sequence[Mapping[str, Sequence[float]]]) -> list[float]:
    """How many times as fast ours is, by the medians of each turn."""
    return [statistics.median(turn[PEER]) / statistics.median(turn[OURS]) for turn in turns]


def measure_memory(workers: int) -> tuple[int, dict[str, str]]:
    """PSS in bytes of the server and its workers, each with sympy used; and the layers of this system."""
    import psutil

    with Sandbox(SandboxSettings(workers=workers)) as sandbox, ExitStack() as stack:
        for _ in range(workers):
            session = stack.enter_context(sandbox.session())
            if not session.run_sync(SOLVE).value:
                raise ValueError("sympy solves nothing in the sandbox: its memory means nothing")
        assert sandbox._server is not None
        server = psutil.Process(sandbox._server.pid)
        processes = [server, *server.children(recursive=True)]
        if len(processes) != workers + 1:
            raise ValueError(f"{len(processes) - 1} workers run, not {workers}")
        return sum(process.memory_full_info().pss for process in processes), dict(sandbox.layers)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    ordered = sorted(times)
    return {
        "p50": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
    }


def section(figures: dict[str, Any]) -> list[str]:
    """The page's section on the sandbox."""
    missing = figures["missing_layers"]
    lines = [
        "Milliseconds of a warm call, and of a fresh state with numpy and sympy, in the sandbox and in a",
        f"Jupyter kernel; {figures['calls']} warm calls in turn, {figures['fresh_rounds']} fresh of ours,",
        f"{figures['kernels']} of the kernel. Layers missing here: {', '.join(missing) or 'none'}.",
        f"{figures['workers']} workers that have used sympy, with their server:",
        f"**{figures['memory_bytes'] / 1e9:.2f} GB** (limit {MEMORY_LIMIT_GB:g}).",
        "",
        "| | p50: ours | Kernel | p95: ours | Kernel | Limit of ours (p50) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, title, limit in (
        ("warm", "Warm call", WARM_LIMIT_MS),
        ("fresh", "Fresh state", FRESH_LIMIT_MS),
    ):
        ours, peer = figures[name][OURS], figures[name][PEER]
        lines.append(
            f"| {title} | {ours['p50']:.2f} | {peer['p50']:.2f} | {ours['p95']:.2f} | {peer['p95']:.2f} "
            f"| {limit:g} |"
        )
    return lines


@app.command()
def main(
    calls: Annotated[int, typer.Option(min=1, help="Warm calls of each side.")] = 300,
    fresh: Annotated[int, typer.Option(min=1, help="Fresh states of ours.")] = 30,
    kernels: Annotated[int, typer.Option(min=1, help="Fresh kernels.")] = 5,
    workers: Annotated[int, typer.Option(min=1, max=60, help="Workers whose memory is measured.")] = 16,
    python: Python = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Measure both and compare; exit code 1 where a limit is missed."""
    memory, layers = measure_memory(workers)
    with open_peer(python or Path(sys.executable), "kernel", {}) as peer:
        warm, new = measure_warm(calls, peer), measure_fresh(fresh, kernels, peer)
    figures: dict[str, Any] = {
        "calls": calls,
        "fresh_rounds": fresh,
        "kernels": kernels,
        "workers": workers,
        "memory_bytes": memory,
        "missing_layers": [name for name, reason in layers.items() if reason],
        "warm": {name: spread(times) for name, times in of_all(warm).items()},
        "fresh": {name: spread(times) for name, times in of_all(new).items()},
        "ratios": {"warm": ratios(warm), "fresh": ratios(new)},
        "versions": peer.versions,
    }
    _print(figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")
    if (
        figures["warm"][OURS]["p50"] > WARM_LIMIT_MS
        or figures["fresh"][OURS]["p50"] > FRESH_LIMIT_MS
        or memory > MEMORY_LIMIT_GB * 1e9
    ):
        raise typer.Exit(1)


def _print(figures: dict[str, Any]) -> None:
    table = Table(title="Model-written Python: the sandbox and a Jupyter kernel (ms)")
    for name in ("", "ours: p50", "p95", "kernel: p50", "p95", "limit"):
        table.add_column(name, justify="right" if name else "left")
    for name, limit in (("warm", WARM_LIMIT_MS), ("fresh", FRESH_LIMIT_MS)):
        values = [figures[name][side][rank] for side in (OURS, PEER) for rank in ("p50", "p95")]
        table.add_row(name, *(f"{value:.2f}" for value in values), f"{limit:g}")
    console.print(table)
    console.print(
        f"[bold]{figures['workers']} workers and their server: {figures['memory_bytes'] / 1e9:.2f} GB[/] "
        f"(limit {MEMORY_LIMIT_GB:g})",
        highlight=False,
    )


if __name__ == "__main__":
    run(app)
