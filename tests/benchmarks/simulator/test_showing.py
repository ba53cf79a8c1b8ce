"""The table for people: nothing cut short, what all scenarios share said once."""

import io

from rich.console import Console

from benchmarks.simulator.scenarios import Result, Scenario
from benchmarks.simulator.showing import show, spelled, table
from benchmarks.simulator.throughput import Curve, Measured
from submission.selection.statistics import Interval


def result(scenario: Scenario) -> Result:
    return Result(scenario, Interval(31.52, 17.0, 44.04), 3.46, 48.339, 50.0, 0.25, 8.0, 900.0, 20)


def test_a_narrow_page_cuts_nothing_short() -> None:
    results = [
        result(Scenario(3_600.0, None, "adaptive", 1.5, "hard-first")),
        result(Scenario(17_400.0, 16, "deepconf", 1.5, "easy-first")),
    ]
    page = io.StringIO()
    show(table(results, 50, 8), Console(file=page, width=40))
    text = page.getvalue()
    assert "…" not in text
    assert "50 problems, 20 contests each, slower 1.5" in text
    for cell in ("deepconf", "hard-first", "31.5 (17.0 to 44.0)", "48.34", "290", "attempts"):
        assert cell in text


def test_speeds_are_spelled_by_their_totals() -> None:
    assert spelled(Curve(100.0, 7.0)) == "tokens/s by samples 1: 100, 8: 400, 32: 589, half 7"
    assert spelled(Curve(10.0, 4_096.0)).endswith("32: 318, none slows another")
    assert spelled(Measured(((1, 100), (8, 400)))) == "tokens/s by samples 1: 100, 8: 400, 32: 400"
