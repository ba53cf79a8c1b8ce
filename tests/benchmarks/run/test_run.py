"""Runs from the command line: what is refused at once, whole runs in real processes, kills in the middle."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from benchmarks.run.__main__ import app
from benchmarks.run.optimization import optimization_overrides
from benchmarks.run.plan import Plan, opened
from benchmarks.run.reading import compare_runs, load_run
from benchmarks.run.sets import load_set
from benchmarks.shared import ROOT
from kit.attempts import read_attempts
from submission.clock import STARTED_AT
from submission.engines.replay import Recorded, load_recording, write_recording
from submission.journal import FaultLine, ProblemLine, SampleLine, read_journal
from submission.settings import SolverSettings
from tests.submission.prm.checkpoints import classifier
from tests.submission.virtual import boxed
from tests.tiny import make_tiny_checkpoint


class Bench:
    """A folder with a problem set and recorded samples, and the command that plays them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "bench"
        self.set = folder / "own.csv"
        self.set.write_text("id,problem,answer\na,What is 1+1?,2\nb,What is 2+2?,4\nc,What is 3+3?,7\n")
        self.record({"a": [boxed(2, 0.1)], "b": [boxed(4, 0.1), boxed(5, 0.2)], "c": [boxed(6, 0.1)]})

    def record(self, recording: dict[str, list[Recorded]]) -> None:
        write_recording(self.folder / "samples.jsonl", recording)

    def options(self, *more: str) -> list[str]:
        return [
            *("--set", str(self.set), "--out", str(self.out), "--in-order"),
            *("--setting", "engine.kind=replay", "--setting", "solver.num_agents=2"),
            *("--setting", f"engine.recording={self.folder / 'samples.jsonl'}", *more),
        ]

    def start(self, *more: str, **variables: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.run", *self.options(*more)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *more: str, **variables: str) -> str:
        with self.start(*more, **variables) as process:
            stdout, stderr = process.communicate(timeout=200)
        assert process.returncode == 0, stdout + stderr
        return stdout

    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "results.json").read_text())
        return found

    def journal(self, name: str) -> Path:
        return self.out / "contests" / name / "submission.journal.jsonl"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# --- refused before anything is played ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "nope"], "no problem set 'nope'"),
        (["--set", ","], "names no problem set"),
        (["--time-limit", "5x"], "duration '5x'"),
        (["--repeat", "0"], "--repeat 0"),
        (["--samples", "0"], "--samples 0"),
        (["--samples", "4", "--time-limit", "3m"], "--samples has no limit"),
        (["--samples", "4", "--optimization", "speed"], "--optimization is for contests"),
        (["--optimization", "fast"], "accuracy, speed, balanced"),
        (["--setting", "solver.num_agnts=3"], "did you mean 'num_agents'"),
        (["--training", "none.jsonl"], "there is no file"),
        (["--bundle", "no-such-bundle"], "no-such-bundle"),
        (["--catalogue", "none.toml"], "none.toml cannot be read"),
        (["--out", "/proc/nowhere"], "cannot write there"),
        (["--setting", "rules.answer_max=3"], "2 of 3 gold answers are not integers from 0 to 3"),
        (["--set", "own.csv,own.csv"], "two sets have one name"),
    ],
)
def test_bad_input_is_told_before_work_starts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(bench.folder)
    found = CliRunner().invoke(app, bench.options(*options))
    assert isinstance(found.exception, ValueError) and message in str(found.exception)
    assert not bench.out.exists()


def test_a_bundle_of_another_version_is_refused(bench: Bench) -> None:
    bundle = bench.folder / "bundle"
    bundle.mkdir()
    manifest = {"format": "aimo-bundle", "version": 99, "files": []}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    found = CliRunner().invoke(app, bench.options("--bundle", str(bundle)))
    assert isinstance(found.exception, ValueError) and "version" in str(found.exception)
    assert not bench.out.exists()


def test_other_folders_are_refused(bench: Bench) -> None:
    bench.out.mkdir()
    (bench.out / "thesis.txt").write_text("")
    found = CliRunner().invoke(app, bench.options())
    assert isinstance(found.exception, ValueError) and "holds other files" in str(found.exception)
    (bench.out / "thesis.txt").unlink()
    (bench.out / "config.json").write_text("{")
    found = CliRunner().invoke(app, bench.options())
    assert isinstance(found.exception, ValueError) and "cannot be read" in str(found.exception)
    assert not (bench.out / "contests").exists()


def test_half_characters_are_refused(bench: Bench) -> None:
    """JSON can hold one half of a surrogate pair; neither a gateway nor a table takes it."""
    path = bench.folder / "half.jsonl"
    path.write_text('{"id": "a", "problem": "1+1?", "answer": 2}\n{"problem": "\\ud83d?", "answer": 2}\n')
    found = CliRunner().invoke(app, bench.options("--set", str(path)))
    assert isinstance(found.exception, ValueError)
    assert "set half, problem 2: its problem holds half a character ('\\ud83d' at 0)" in str(found.exception)
    assert not bench.out.exists()


def test_a_full_disk_is_told(bench: Bench) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        found = CliRunner().invoke(app, bench.options())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(found.exception, ValueError) and "cannot write there: File too large" in str(
        found.exception
    )


def test_half_a_file_of_a_killed_process_is_no_other_persons(bench: Bench) -> None:
    replay = ("engine.kind=replay", f"engine.recording={bench.folder / 'samples.jsonl'}")
    plan = Plan(None, (load_set(str(bench.set), {}, None),), time_limit=60.0, samples=None, settings=replay)
    bench.out.mkdir()
    (bench.out / ".config.json.8s7d.tmp").write_text("{")
    refused = pytest.raises(ValueError, match="another run is writing")
    with opened(bench.out, plan), refused, opened(bench.out, plan):
        pass
    assert json.loads((bench.out / "config.json").read_text())["time_limit"] == 60


def test_optimizations_are_settings() -> None:
    base = SolverSettings(num_agents=8)
    for name, attempts in (("accuracy", 16), ("speed", 4), ("balanced", 8)):
        changed = dict(
            override.removeprefix("solver.").split("=") for override in optimization_overrides(name, base)
        )
        found = SolverSettings(**{**base.model_dump(), **changed})
        assert found.attempts == attempts
    with pytest.raises(ValueError, match="fast"):
        optimization_overrides("fast", base)


# --- whole runs --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_contests_and_more_of_them_later(bench: Bench) -> None:
    said = bench.run("--time-limit", "1m", "--training", str(bench.set))
    assert "own, 3 problems; at most 1 min left for 1 contests" in said and "66.7" in said
    assert "3 problems were in the training data" in said
    first = bench.results()
    assert first["figures"]["own"]["right"] == [2] and first["contests"][0]["order"] == ["a", "b", "c"]
    # The finished contest is kept, the second one is another contest with other seeds.
    played = bench.journal("own-0").read_bytes()
    said = bench.run("--time-limit", "1m", "--repeat", "2")
    assert "1/2" not in said and "2/2 own" in said
    assert bench.journal("own-0").read_bytes() == played
    found = bench.results()
    assert found["figures"]["own"]["right"] == [2, 2] and found["figures"]["own"]["least_difference"] is None
    assert found["contests"][1]["elapsed"] < 30  # its clock is its own
    with (bench.out / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["repeat"], row["id"], row["answer"], row["right"]) for row in rows][:3] == [
        ("0", "a", "2", "true"),
        ("0", "b", "4", "true"),
        ("0", "c", "6", "false"),
    ]
    environment = json.loads((bench.out / "environment.json").read_text())
    assert environment["versions"]["polars"] and environment["cores"] >= 1
    # What was recorded can be read as recordings are.
    samples = bench.out / "samples.parquet"
    assert {key: len(found) for key, found in load_recording(samples).items()} == {"a": 4, "b": 4, "c": 4}
    assert [(one.id, sum(one.right)) for one in read_attempts([samples])] == [("a", 4), ("b", 2), ("c", 0)]
    run = load_run(bench.out)
    assert run.sets["own"].ids == ("a", "b", "c") and run.sets["own"].right.tolist() == [[1, 1, 0]] * 2
    assert compare_runs(run, run)["own"].p_value == 1
    other = replace(run, results={**run.results, "time_limit": 5.0})
    with pytest.raises(ValueError, match=r"time_limit is 60.0 and 5.0"):
        compare_runs(run, other)
    # Another limit is another run.
    refused = CliRunner().invoke(app, bench.options("--time-limit", "2m"))
    assert "other settings (time_limit was 60.0, is 120.0)" in str(refused.exception)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(bench: Bench) -> None:
    options = ("--samples", "2")
    bench.record({"a": [boxed(2, 0.1)], "b": [boxed(4, 2)], "c": [boxed(6, 0.1)]})
    for times, ending in enumerate((signal.SIGTERM, signal.SIGKILL), 1):
        with bench.start(*options) as process:
            deadline = time.monotonic() + 60
            while (
                sum(line.id == "b" for line in read_journal(bench.journal("own-0")).of(ProblemLine)) < times
            ):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
            process.send_signal(ending)
            _, stderr = process.communicate()
        told = "interrupted: what was played is kept; the same command continues"
        assert (told in stderr) == (ending == signal.SIGTERM)
    bench.run(*options)
    journal = read_journal(bench.journal("own-0"))
    assert sum(line.id == "a" for line in journal.of(SampleLine)) == 2  # not drawn again
    assert not journal.of(FaultLine)
    assert [row["right"] for row in csv.DictReader((bench.out / "answers.csv").open())] == [
        "true",
        "true",
        "false",
    ]
    assert bench.results()["contests"][0]["starts"] == 3


@pytest.mark.slow
def test_a_contest_without_a_model_is_no_result(bench: Bench) -> None:
    bench.record({"another problem": [boxed(2, 0.1)]})
    with bench.start("--samples", "2") as process:
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 1 and "NO_MODEL_ANSWERED: own-0: every sample failed" in stderr
    assert not (bench.out / "results.json").exists()
    assert not (bench.out / "contests" / "own-0" / "submission.parquet").exists()  # to be played anew


@pytest.mark.slow
def test_samples_of_any_answers_with_scores(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golds that no contest can ask, and a PRM that scores what the contest would leave unscored."""
    prm = classifier(bench.folder / "prm")
    bench.set.write_text('id,problem,answer\nh,One half?,"\\frac{1}{2}"\nr,Root?,2\\sqrt{2}\na,1+1?,2\n')
    bench.record(
        {
            "h": [boxed("0.5", 0.1), boxed("\\frac12", 0.1), boxed(3, 0.1)],
            "r": [boxed("\\sqrt{8}", 0.1), boxed("x", 0.1), boxed("\\sqrt8", 0.1)],
            "a": [boxed(2, 0.1), boxed(3, 0.1), boxed(3, 0.1)],
        }
    )
    monkeypatch.setenv("PRM_MODEL_PATH", str(prm))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        done = CliRunner().invoke(app, bench.options("--samples", "3"), catch_exceptions=False)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert "prm@k" in done.output and "3 of 3 problems" in done.output
    assert STARTED_AT not in os.environ
    found = bench.results()
    rows = found["figures"]["own"]["at_k"]
    assert [row["k"] for row in rows] == [1, 2, 3]
    assert rows[0]["pass"]["mean"] == pytest.approx((2 + 2 + 1) / 9)
    assert rows[0]["prm"]["mean"] == rows[0]["maj"]["mean"] == pytest.approx(rows[0]["pass"]["mean"])
    assert rows[2]["pass"]["mean"] == 1 and rows[2]["maj"]["mean"] == pytest.approx(2 / 3)
    samples = pl.read_parquet(bench.out / "samples.parquet")
    assert samples["score"].null_count() == 0 and samples.height == 9
    assert samples["score"].is_between(0, 1).all()


@pytest.mark.slow
def test_a_real_model_plays(bench: Bench) -> None:
    """The engine itself, with a model that knows nothing: contests and samples through its own processes."""
    model = make_tiny_checkpoint(bench.folder / "model")
    options = ["--setting", "engine.kind=transformers", "--setting", "solver.max_tokens=8"]
    options += ["--samples", "2", "--draw", "2"]
    said = bench.run(*options, MATH_MODEL_PATH=str(model))
    assert "2 of 2 problems, 4 samples" in said
    samples = pl.read_parquet(bench.out / "samples.parquet")
    assert samples.height == 4 and samples["total_tokens"].is_between(1, 8).all()
    assert samples["finish"].is_in(["stop", "length"]).all()
    assert bench.results()["contests"][0]["faults"] == []


def test_folders_without_a_run_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no finished run"):
        load_run(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "answers.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="holds no finished run"):
        load_run(tmp_path)
