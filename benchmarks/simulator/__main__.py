"""Command line of `python -m benchmarks.simulator`: what contests would score, from recorded samples.

    python -m benchmarks.simulator runs/samples --bundle bundles/aimo --time-limits 150m,300m --attempts 8,16

Every combination of the values given is a scenario; all scenarios play the same draws.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from benchmarks.run.durations import parse_duration, spell_duration
from benchmarks.simulator.check import Checked, check, read_contests, run_overrides
from benchmarks.simulator.contest import ORDERS, Order
from benchmarks.simulator.pool import Pools, read_pools
from benchmarks.simulator.recording import read_recording
from benchmarks.simulator.scenarios import Scenario, evaluate, grid, play
from benchmarks.simulator.showing import report, show, spelled, table, tell
from benchmarks.simulator.throughput import parse_throughput
from submission.bundle import Bundle
from submission.cli import run
from submission.files import write_text
from submission.selection.calibration import load_calibration
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestSettings, profile_path
from submission.setup import CALIBRATION

T = TypeVar("T")

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the contest's time: the curve where no limits are named."""
REPEATED = (
    "Over {least} attempts: some problems' recorded samples are asked again, which says less than new ones."
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    recordings: Annotated[list[Path], typer.Argument(help="Folders of runs, or files of attempts.")],
    bundle: Annotated[Path | None, typer.Option(help="Whose settings and calibration play.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="In place of a bundle: a shipped contest's profile.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--setting", help="Override a setting: budget.cap=600.")
    ] = None,
    time_limits: Annotated[
        str, typer.Option(help="Of a contest, loading included: 150m,300m. Default: quarters of its own.")
    ] = "",
    attempts: Annotated[str, typer.Option(help="Samples a problem, side by side: 8,16,32.")] = "",
    policies: Annotated[str, typer.Option(help="value, agree, adaptive, deepconf, fixed.")] = "",
    slower: Annotated[str, typer.Option(help="Times that the engine takes as long: 1,1.5,2.")] = "1",
    orders: Annotated[str, typer.Option(help=f"Of the problems: {', '.join(ORDERS)}.")] = "shuffled",
    problems: Annotated[
        int | None, typer.Option(min=1, help="Of a contest. Default: as many as were recorded.")
    ] = None,
    contests: Annotated[int, typer.Option(min=1, help="Simulated for each scenario.")] = 20,
    throughput: Annotated[
        str, typer.Option(help="Samples side by side and their tokens a second together: 1:180,8:700.")
    ] = "",
    half: Annotated[
        float | None, typer.Option(help="So many more samples halve the speed of each. Default: fitted.")
    ] = None,
    load: Annotated[
        str, typer.Option(help="Time that the engine loads. Default: as recorded, or none.")
    ] = "",
    answers: Annotated[
        Path | None, typer.Option(help="csv of id and answer, for a contest's journal.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="How answers are chosen. Default: the bundle's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Simulate contests of recorded samples, and check the simulator on recorded contests."""
    file = _settings_file(bundle, profile)
    folders = {path: run_overrides(path, file) for path in recordings if path.is_dir()}
    # A run goes on as it was played, unless it is told otherwise.
    as_played = next(iter(folders.values())) if len(folders) == len(recordings) == 1 else []
    settings = ContestSettings.load(file, [*as_played, *(setting or [])])
    rule = _rule(bundle, calibration)
    scenarios = _scenarios(settings, time_limits, attempts, policies, slower, orders)
    measured = parse_throughput(throughput) if throughput else None
    taken = read_recording(recordings, answers)
    pools = read_pools(taken, measured=measured, half=half)
    reals = {path: read_contests(path) for path in folders}
    loading = max((one.begun for found in reals.values() for one in found), default=0.0)
    loading = parse_duration(load) if load else loading
    checked: list[Checked] = []
    # The speed of another engine says nothing of the contests that were played.
    for path, overrides in folders.items() if measured is None else ():
        played = ContestSettings.load(file, overrides)
        checked += [check(real, taken, pools.throughput, played, rule) for real in reals[path]]
    size = problems or len(pools.problems)
    console = Console()
    told = {
        "recording": f"{len(taken)} samples of {len(pools.problems)} problems",
        "engine": f"{spelled(pools.throughput)} ({pools.source}); loads in {spell_duration(loading)}",
        "contest": f"{size} problems, answers by {rule}, seed {seed}",
    }
    notes = _notes(pools, scenarios, settings)
    tell(told, notes, checked, console)
    results = []
    with console.status("contests"):
        for one in scenarios:
            found = play(
                one,
                pools,
                settings,
                size=size,
                contests=contests,
                load_seconds=loading,
                rule=rule,
                seed=seed,
            )
            results.append(evaluate(one, list(found), seed=seed))
    show(table(results, size, settings.solver.attempts), console)
    if json_path is not None:
        figures = report(results, told, notes, checked, pools.throughput)
        write_text(json_path, json.dumps(figures, indent=1, allow_nan=False) + "\n")


def _settings_file(bundle: Path | None, profile: str | None) -> Path | None:
    if bundle is not None and profile is not None:
        raise ValueError("--bundle has settings of its own: leave out --profile")
    if bundle is not None:
        return Bundle.open(bundle).settings
    return None if profile is None else profile_path(profile)


def _rule(bundle: Path | None, calibration: Path | None) -> Rule:
    if calibration is None and bundle is not None and (bundle / CALIBRATION).is_file():
        calibration = bundle / CALIBRATION
    return PLAIN if calibration is None else load_calibration(calibration).rule


def _scenarios(
    settings: ContestSettings, time_limits: str, attempts: str, policies: str, slower: str, orders: str
) -> list[Scenario]:
    """All combinations; every mistake in them shows before the first contest."""
    own = settings.rules.time_limit
    scenarios = grid(
        _values(time_limits, parse_duration) or [share * own for share in SHARES],
        _values(attempts, _count) or [None],
        _values(policies, str) or [settings.solver.policy],
        _values(slower, _factor) or [1.0],
        _values(orders, _order) or ["shuffled"],
    )
    for scenario in scenarios:
        scenario.settings(settings)
    return scenarios


def _values(text: str, read: Callable[[str], T]) -> list[T]:
    """Values between commas, each once, in their order."""
    return list(dict.fromkeys(read(part.strip()) for part in text.split(",") if part.strip()))


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--attempts {text!r}: expected whole numbers, as 8,16") from None


def _factor(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--slower {text!r}: expected factors, as 1,1.5") from None


def _order(text: str) -> Order:
    for order in ORDERS:
        if order == text:
            return order
    raise ValueError(f"--orders {text!r}: choose among {', '.join(ORDERS)}")


def _notes(pools: Pools, scenarios: Sequence[Scenario], settings: ContestSettings) -> list[str]:
    least = min(len(problem.samples) for problem in pools.problems)
    most = max(scenario.settings(settings).solver.attempts for scenario in scenarios)
    return [*pools.notes, *([REPEATED.format(least=least)] if most > least else [])]


if __name__ == "__main__":
    run(app)
