"""Contests predicted from one recording and then played, and what is told of the difference."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.simulator import real
from benchmarks.simulator.__main__ import app
from benchmarks.simulator.against import compare, predict
from benchmarks.simulator.check import read_contests, run_overrides
from benchmarks.simulator.contest import Machine
from benchmarks.simulator.pool import read_pools
from benchmarks.simulator.recording import Taken, read_recording
from benchmarks.simulator.showing import told_of
from benchmarks.simulator.throughput import Curve
from submission.settings import ContestSettings
from tests.benchmarks.simulator.test_real_time import RealRun
from tests.submission.virtual import run_virtual

WAYS = {
    real.RECORDING: ("solver.num_agents=6", "solver.policy=fixed"),
    "A": ("solver.num_agents=2", "solver.max_attempts=6", "solver.policy=fixed"),
    "B": ("solver.num_agents=6", "solver.agree=3"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording and contests of the same samples, played in virtual time on an engine of another code."""
    found = tmp_path_factory.mktemp("runs")
    for name, overrides in WAYS.items():
        played = RealRun(found / name, overrides)
        run_virtual(played.play_virtual())
        played.write()
    shutil.copytree(found / "A", found / "A-again")
    return found


def machine_of(folder: Path) -> tuple[list[Taken], Machine]:
    recorded = read_recording([folder / real.RECORDING])
    (source,) = read_contests(folder / real.RECORDING, samples=True)
    engine = read_pools(recorded).throughput
    return recorded, Machine(engine, load_seconds=source.begun, between=source.between)


@pytest.mark.parametrize("name", ["A", "B"])
def test_another_contest_of_the_same_samples_is_predicted(folder: Path, name: str) -> None:
    recorded, machine = machine_of(folder)
    (played,) = read_contests(folder / name)
    settings = ContestSettings.load(None, run_overrides(folder / name, None))
    found = predict(played, read_recording([folder / name]), recorded, machine, settings)
    assert found.alike == 1.0 and found.low == found.high
    assert abs(found.error) < 0.1 and abs(found.sampling_error) < 0.1
    assert found.pace == pytest.approx(1.0, abs=0.1)
    assert [time.id for time in found.problems] == list(played.order)
    assert all(time.predicted == pytest.approx(time.real, rel=0.15) for time in found.problems)
    assert sum(time.real for time in found.problems) <= played.seconds


def test_other_samples_are_drawn_many_times(folder: Path) -> None:
    recorded, machine = machine_of(folder)
    others = [replace(one, tokens=one.tokens + 1) for one in recorded]
    (played,) = read_contests(folder / "A")
    settings = ContestSettings.load(None, run_overrides(folder / "A", None))
    own = [replace(one, contest=played.contest) for one in others]
    found = predict(played, own, recorded, machine, settings, draws=6)
    assert found.alike == 0.0
    assert found.low < found.predicted < found.high
    assert found.predicted == pytest.approx(played.seconds, rel=0.15)
    assert "other samples than recorded" in told_of(found)[0]
    assert predict(played, own, recorded, machine, settings, draws=6) == found


def test_the_pace_is_that_of_equal_samples_with_company_taken_out() -> None:
    def taken(attempt: int, tokens: int, seconds: float) -> Taken:
        return Taken("p", "c", attempt, "7", right=True, tokens=tokens, seconds=seconds, begun=0.0)

    machine = Machine(Curve(100.0, 1.0))
    pair = [taken(0, 100, 2.0), taken(1, 120, 2.0)]  # two at half speed each
    alone = [taken(0, 100, 1.5)]
    assert compare(alone, pair, machine) == pytest.approx((1.0, 1.5))
    assert compare(pair, pair, machine) == (1.0, 1.0)
    assert compare([taken(0, 50, 1.0)], pair, machine) == pytest.approx((0.0, 2.2))
    # Cut at the same length: that says nothing of the samples, and all of them tell the pace.
    assert compare([taken(1, 120, 3.0)], pair, machine) == pytest.approx((0.0, 2.75))
    assert compare([], pair, machine) == (0.0, 1.0)


def test_a_recording_of_other_problems_is_refused(folder: Path) -> None:
    recorded, machine = machine_of(folder)
    (played,) = read_contests(folder / "A")
    some = [one for one in recorded if one.problem != "c"]
    with pytest.raises(ValueError, match="no sample of problem 'c', which contest own-0 asked"):
        predict(played, [], some, machine, ContestSettings.load(None, ["solver.num_agents=2"]))


def test_the_command_predicts_the_runs_that_it_is_given(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    words = [str(folder / real.RECORDING), "--against", str(folder / "B"), "--contests", "1"]
    done = CliRunner().invoke(app, [*words, "--time-limits", "60m", "--json", str(out)])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(out.read_text())["against"]
    assert abs(found["error"]) < 0.1 and len(found["problems"]) == 4
    assert "against    own-0: predicted" in done.output and "predicted / real" in done.output


def test_the_page_shows_what_was_predicted_and_what_came(folder: Path) -> None:
    figures = json.loads(json.dumps(real.judged(folder, "small", {}, Console(quiet=True))))
    assert figures["drift"] == 1.0 and list(figures["contests"]) == ["A", "B", "A again"]
    lines = real.simulator_section(figures)
    first, second, third = lines[-3:]
    assert first.startswith("| A | 100% |") and second.startswith("| B | 100% |")
    assert third == first.replace("| A |", "| A again |")
    assert "+0.0 % against A" in " ".join(lines) and max(map(len, lines)) < 130
    facts = figures["contests"]["A"]
    assert facts["sampling_error"] == pytest.approx(
        (facts["predicted"] - facts["loading"]["predicted"]) / (facts["real"] - facts["loading"]["real"]) - 1
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("AIMO_REAL_TIME"),
    reason="it measures seconds, and wants a machine that does nothing else: AIMO_REAL_TIME=1 runs it",
)
def test_real_contests_on_a_real_engine_are_predicted(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        real.app, ["--json", str(tmp_path / "figures.json"), "--out", str(tmp_path / "o")]
    )
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    drift = abs(figures["drift"] - 1)
    assert all(abs(one["sampling_error"]) < 0.1 + drift for one in figures["contests"].values()), figures
