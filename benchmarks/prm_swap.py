"""What it takes solver and process reward model to change places on one GPU, and back (`prm.swap`).

    python -m benchmarks.prm_swap --model DIR --prm DIR [--turns 5] [--set KEY=VALUE] [--json PATH]

Both are started as a contest starts them, with its settings, and take turns without scoring anything: each
falls asleep (vLLM's level 1: weights to the machine's memory, cache dropped) before the other wakes. Only on
a GPU: vLLM on a CPU ignores it, so there is nothing to measure and no figure is printed.
"""

import asyncio
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from submission.cli import run
from submission.engines.base import EngineError, SleepingEngine
from submission.files import write_text
from submission.machine import GIB, this_machine
from submission.prm.making import make_scorer
from submission.prm.turns import SleepingScorer, Turns
from submission.settings import ContestSettings
from submission.supervision import make_supervised

SWAP = ("prm.swap=true", "prm.engine=vllm", "engine.kind=vllm")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


async def measure(settings: ContestSettings, model: Path, prm: Path, turns: int) -> dict[str, list[float]]:
    """Seconds of each step, turn by turn; the first turn, which also pins the machine's memory, leads.

    Raises:
        EngineError: one of the two could not be started, or did not sleep or wake.
    """
    faults: list[str] = []

    def note(what: str, why: str) -> None:
        faults.append(f"{what}: {why}")

    with tempfile.TemporaryDirectory() as scratch:
        engine = make_supervised(
            settings, model, log=Path(scratch, "log"), seconds_left=lambda: float("inf"), on_fault=note
        )
        scorer = make_scorer(settings, prm)
        assert isinstance(engine, SleepingEngine) and isinstance(scorer, SleepingScorer), "as settings say"
        shared = Turns(engine, scorer, note)
        found: dict[str, list[float]] = {}
        try:
            await shared.start(settings.supervision.start_limit)
            await engine.start()
            for _ in range(turns):
                await shared.rehearse()
                if faults:
                    raise EngineError("; ".join(faults))
                for step, seconds in shared.seconds.items():
                    found.setdefault(step, []).append(seconds[-1])
        finally:
            await shared.close()
            await engine.close()
    return found


def can_sleep() -> bool:
    """Whether vLLM can give a device's memory back here."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_sleep_mode_available())


def weights_gib(folder: Path) -> float:
    """Size of a checkpoint's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / GIB


@app.command()
def main(
    model: Annotated[Path, typer.Option(help="The solver's folder.", exists=True, file_okay=False)],
    prm: Annotated[Path, typer.Option(help="The PRM's folder.", exists=True, file_okay=False)],
    turns: Annotated[int, typer.Option(min=1, help="How often they change places.")] = 5,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A contest's setting, such as engine.max_num_seqs=32.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Measure the steps of a swap."""
    settings = ContestSettings.load(None, [*SWAP, *(overrides or [])])
    if not can_sleep():
        console.print("vLLM ignores sleep mode on this machine (no GPU): there is no swap to measure.")
        return
    figures: dict[str, Any] = {
        "gpu": ", ".join(gpu.name for gpu in this_machine().gpus or ()),
        "weights_gib": {"model": weights_gib(model), "prm": weights_gib(prm)},
        "seconds": asyncio.run(measure(settings, model, prm, turns)),
    }
    show(figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")


def show(figures: dict[str, Any]) -> None:
    """Print the figures."""
    sizes, rows = figures["weights_gib"], figures["seconds"]
    console.print(
        f"{figures['gpu']}: {sizes['model']:.1f} GiB of weights and {sizes['prm']:.1f} GiB of the PRM's"
    )
    table = Table(title="Seconds of a swap")
    for name in ("", "first", "median", "longest"):
        table.add_column(name, justify="right" if name else "left")
    whole = [sum(turn) for turn in zip(*rows.values(), strict=True)]
    for step, seconds in [*rows.items(), ("all", whole)]:
        table.add_row(step, *(f"{value:.2f}" for value in summary(seconds)))
    console.print(table)


def summary(seconds: Sequence[float]) -> tuple[float, float, float]:
    """First, median and longest."""
    return seconds[0], statistics.median(seconds), max(seconds)


if __name__ == "__main__":
    run(app)
