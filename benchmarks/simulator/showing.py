"""The simulator's figures for people and for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.simulator.check import Checked
from benchmarks.simulator.scenarios import Result, facts
from benchmarks.simulator.throughput import Curve, Throughput

CLOSE = 0.10
"""By so much the simulator may miss the time of a real contest."""

NO_SLOWING = 1_000.0
"""A `half` from which an engine's samples do not slow each other down."""
WIDEST = 200


def spelled(throughput: Throughput) -> str:
    """An engine's speed at 1, 8 and 32 samples, tokens a second of all of them."""
    totals = ", ".join(f"{count}: {count * throughput.speed(count):.0f}" for count in (1, 8, 32))
    half = ""
    if isinstance(throughput, Curve):
        slow = throughput.half < NO_SLOWING
        half = f", half {throughput.half:.3g}" if slow else ", none slows another"
    return f"tokens/s by samples {totals}{half}"


def tell(told: Mapping[str, str], notes: Sequence[str], checked: Sequence[Checked], console: Console) -> None:
    """What the contests are made of, and how close the simulator came to real ones."""
    for name, line in told.items():
        console.print(Text(f"{name:<11}{line}"), soft_wrap=True)
    for one in checked:
        style = "green" if abs(one.error) <= CLOSE else "bold red"
        line = f"simulated {one.simulated:.1f} s, real {one.real:.1f} s ({100 * one.error:+.1f} %)"
        console.print(Text(f"check      {one.name}: {line}", style), soft_wrap=True)
    for note in notes:
        console.print(Text(f"note: {note}", "yellow"), soft_wrap=True)


def table(results: Sequence[Result], size: int, attempts: int) -> Table:
    """Accuracy against time, and what else was tried; `attempts` are those of the settings.

    What is the same in all scenarios stands in the title.
    """
    tried: dict[str, list[str]] = {
        "attempts": [str(one.scenario.attempts or attempts) for one in results],
        "policy": [one.scenario.policy for one in results],
        "slower": [f"{one.scenario.slower:g}" for one in results],
        "order": [one.scenario.order for one in results],
    }
    same = [f"{name} {cells[0]}" for name, cells in tried.items() if len(set(cells)) == 1]
    title = ", ".join([f"{size} problems", f"{results[0].contests} contests each", *same])
    columns = {name: cells for name, cells in tried.items() if len(set(cells)) > 1}
    columns |= {
        "limit": [f"{one.scenario.time_limit / 60:.4g}" for one in results],
        "score (95 %)": [
            f"{one.score.mean:.1f} ({one.score.low:.1f} to {one.score.high:.1f})" for one in results
        ],
        "sd": [f"{one.spread:.1f}" for one in results],
        "used": [f"{one.minutes:.4g}" for one in results],
        "unanswered": [f"{one.unanswered:.1f}" for one in results],
    }
    found = Table(title=Text(title), caption="limit, used: minutes of a contest; sd: of one's score")
    for name in columns:
        found.add_column(name, justify="left" if name in ("policy", "order") else "right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        found.add_row(*row)
    return found


def show(found: Table, console: Console) -> None:
    """Print a table whole: a cell that is cut short tells nothing, and a file has no width."""
    wide = console.measure(found, options=console.options.update(max_width=WIDEST)).maximum
    Console(width=max(wide, console.width), file=console.file).print(found)


def report(
    results: Sequence[Result],
    told: Mapping[str, str],
    notes: Sequence[str],
    checked: Sequence[Checked],
    throughput: Throughput,
) -> dict[str, Any]:
    """All figures, ready for JSON; scenarios that differ in their time limit alone follow each other."""
    counts = (1, 2, 4, 8, 16, 32, 64)
    return {
        **told,
        "notes": list(notes),
        "tokens_a_second": {str(count): count * throughput.speed(count) for count in counts},
        "checks": [
            {"name": one.name, "real": one.real, "simulated": one.simulated, "error": one.error}
            for one in checked
        ],
        "scenarios": [facts(result) for result in results],
    }
