"""Command line of `python -m benchmarks.simulator`: what contests would score, from recorded samples.

    python -m benchmarks.simulator runs/samples --bundle bundles/aimo --time-limits 150m,300m --attempts 8,16

Every combination of the values given is a scenario; all scenarios play the same draws.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from benchmarks.run.durations import parse_duration, spell_duration
from benchmarks.simulator.against import Prediction, predict
from benchmarks.simulator.check import Checked, check, read_contests, run_overrides
from benchmarks.simulator.contest import ORDERS, Machine, Order
from benchmarks.simulator.opinions import Heard, read_heard, require_heard
from benchmarks.simulator.pool import Pools, read_pools
from benchmarks.simulator.prm_time import recorded_prm_speed
from benchmarks.simulator.recording import Taken, read_recording
from benchmarks.simulator.scenarios import Scenario, evaluate, grid, play
from benchmarks.simulator.showing import report, show, spelled, table, tell, tell_predictions
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
UNTIMED = "PRM scores take no time here: the recording does not tell how fast they came, --prm-speed does."

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
    prm_speed: Annotated[
        float | None, typer.Option("--prm-speed", help="Tokens that the PRM scores in a second.")
    ] = None,
    without_opinions: Annotated[
        bool, typer.Option("--without-opinions", help="Play the solvers alone, whoever else the team has.")
    ] = False,
    against: Annotated[
        list[Path] | None, typer.Option(help="A run that was played: predict its times. Repeatable.")
    ] = None,
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
    heard = [] if without_opinions else read_heard(list(folders), taken)
    _refuse([scenario.settings(settings) for scenario in scenarios], heard, alone=without_opinions)
    machine = replace(_machine(pools, list(folders), load, prm_speed), heard=tuple(heard))
    # The speed of another engine says nothing of the contests that were played.
    checked = _checked(folders, taken, machine, file, rule) if measured is None else []
    predictions = _predictions(against or [], taken, machine, file, rule, seed)
    size = problems or len(pools.problems)
    console = Console()
    loads = spell_duration(machine.load_seconds)
    told = {
        "recording": f"{len(taken)} samples of {len(pools.problems)} problems",
        "engine": f"{spelled(pools.throughput)} ({pools.source}); loads in {loads}",
        "contest": f"{size} problems, answers by {rule}, seed {seed}",
    }
    notes = _notes(pools, scenarios, settings, machine.prm_speed)
    tell(told, notes, checked, console)
    tell_predictions(predictions, console)
    draw = partial(play, size=size, contests=contests, machine=machine, rule=rule, seed=seed)
    with console.status("contests"):
        results = [evaluate(one, list(draw(one, pools, settings)), seed=seed) for one in scenarios]
    show(table(results, size, settings.solver.attempts), console)
    if json_path is not None:
        figures = report(results, told, notes, checked, pools.throughput, predictions)
        write_text(json_path, json.dumps(figures, indent=1, allow_nan=False) + "\n")


def _machine(pools: Pools, folders: Sequence[Path], load: str, prm_speed: float | None) -> Machine:
    """What was recorded on, as far as the runs in these folders and the command line tell."""
    played = [one for folder in folders for one in read_contests(folder, samples=True)]
    return Machine(
        pools.throughput,
        load_seconds=parse_duration(load) if load else max((one.begun for one in played), default=0.0),
        between=median(one.between for one in played) if played else 0.0,
        prm_speed=_prm_speed(prm_speed, folders),
    )


def _checked(
    folders: Mapping[Path, list[str]],
    recorded: Sequence[Taken],
    machine: Machine,
    file: Path | None,
    rule: Rule,
) -> list[Checked]:
    """Every contest in these folders, played again as it was; `folders` has their settings."""
    found: list[Checked] = []
    for folder, overrides in folders.items():
        settings = ContestSettings.load(file, overrides)
        found += [check(real, recorded, machine, settings, rule) for real in read_contests(folder)]
    return found


def _predictions(
    folders: Sequence[Path],
    recorded: Sequence[Taken],
    machine: Machine,
    file: Path | None,
    rule: Rule,
    seed: int,
) -> list[Prediction]:
    """Of every contest in the folders of `--against`."""
    found: list[Prediction] = []
    for folder in folders:
        settings = ContestSettings.load(file, run_overrides(folder, file))
        played = read_recording([folder])
        found += [
            predict(real, played, recorded, machine, settings, rule, seed=seed)
            for real in read_contests(folder)
        ]
    return found


def _refuse(chosen: Sequence[ContestSettings], heard: Sequence[Heard], *, alone: bool) -> None:
    """What the recording cannot play is told, not left out."""
    for settings in chosen:
        if settings.prm.swap:
            raise ValueError(
                "prm.swap: changing places on the GPU is not simulated; --setting prm.swap=false plays "
                "without it, as if the PRM had a GPU of its own"
            )
        if not alone:
            require_heard(settings, heard)


def _prm_speed(given: float | None, folders: Sequence[Path]) -> float:
    """Tokens a second: given, or as the recordings' journals tell; infinite where nobody says."""
    if given is not None and not 0 < given < math.inf:
        raise ValueError(f"--prm-speed {given}: must be positive tokens a second")
    return given or recorded_prm_speed(folders) or math.inf


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


def _notes(
    pools: Pools, scenarios: Sequence[Scenario], settings: ContestSettings, prm_speed: float
) -> list[str]:
    least = min(len(problem.samples) for problem in pools.problems)
    most = max(scenario.settings(settings).solver.attempts for scenario in scenarios)
    scored = any(sample.steps for problem in pools.problems for sample in problem.samples)
    return [
        *pools.notes,
        *([REPEATED.format(least=least)] if most > least else []),
        *([UNTIMED] if scored and math.isinf(prm_speed) else []),
    ]


if __name__ == "__main__":
    run(app)
