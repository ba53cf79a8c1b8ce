"""The simulator's figures for people and for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.simulator.against import Prediction, prediction_facts
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


def told_of(one: Prediction) -> list[str]:
    """A predicted contest in lines: how far off the times are, and what the difference is made of."""
    spread = f" (draws {one.low:.1f} to {one.high:.1f})" if one.low < one.high else ""
    same = "the same samples as recorded" if spread == "" else "other samples than recorded"
    return [
        f"{one.name}: predicted {one.predicted:.1f} s{spread}, real {one.real:.1f} s ({_signed(one.error)}); "
        f"{same} ({one.alike:.0%} alike)",
        f"  without loading {_signed(one.sampling_error)}; loading predicted {one.loading[1]:.1f} s, "
        f"real {one.loading[0]:.1f} s",
        f"  a token took {one.pace:.2f} times as long as in the recording, company taken out; at that pace "
        f"{_signed(one.rest)}",
    ]


def against_table(one: Prediction) -> Table:
    """Each problem's seconds."""
    found = Table(title=Text(f"{one.name}: seconds of each problem"))
    for name in ("problem", "predicted", "real", "predicted / real"):
        found.add_column(name, justify="left" if name == "problem" else "right")
    for time in one.problems:
        ratio = f"{time.predicted / time.real:.2f}" if time.real > 0 else "-"
        found.add_row(Text(time.id), f"{time.predicted:.2f}", f"{time.real:.2f}", ratio)
    return found


def tell_predictions(predictions: Sequence[Prediction], console: Console) -> None:
    """All of it."""
    for one in predictions:
        head, *rest = told_of(one)
        style = "green" if abs(one.sampling_error) <= CLOSE else "bold red"
        console.print(Text(f"against    {head}", style), soft_wrap=True)
        for line in rest:
            console.print(Text(f"         {line}"), soft_wrap=True)
        show(against_table(one), console)


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %"


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
    Console(width=max(wide, console.width), file=console.file, quiet=console.quiet).print(found)


def report(
    results: Sequence[Result],
    told: Mapping[str, str],
    notes: Sequence[str],
    checked: Sequence[Checked],
    throughput: Throughput,
    predictions: Sequence[Prediction] = (),
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
        "against": [prediction_facts(one) for one in predictions],
        "scenarios": [facts(result) for result in results],
    }
