"""The study's plan and its way through a stop. The slow test trains for real, a few steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.learning.__main__ import QUICK
from benchmarks.learning.runs import load_settings
from benchmarks.learning.settings import DISTILL, DistillStudy, Stage, stage_recipe, student_recipe
from benchmarks.learning.study import prepare, run_all, students
from benchmarks.shared import ROOT
from kit.data.records import read_records
from kit.training.model import find_model

SMALL = DistillStudy(
    teacher=Stage(problems=60), base=Stage(problems=50), traces=40, test_problems=10, seeds=[0, 1]
)


def test_the_shipped_settings_are_the_promised_study() -> None:
    study = DistillStudy.load(DISTILL)
    assert len(study.seeds) == 5
    assert study.test_problems >= 500
    assert (study.alpha, study.temperature) == (0.5, 2.0)
    # "Smaller" in every size that costs time.
    small, large = study.base.model, study.teacher.model
    assert small.hidden < large.hidden and small.intermediate < large.intermediate
    assert small.layers <= large.layers


def test_arms_differ_in_the_loss_or_the_steps_alone(tmp_path: Path) -> None:
    ce, kd, more = (
        student_recipe(SMALL, tmp_path, arm, 1, tmp_path / arm).model_dump()
        for arm in ("ce", "kd", "ce_more")
    )
    assert (ce["loss"]["alpha"], kd["loss"]["alpha"], more["loss"]["alpha"]) == (0, 0.5, 0)
    assert (ce["batch"]["max_steps"], more["batch"]["max_steps"]) == (600, 1050)
    # The traces of `kd` are the same ones with the teacher's log-probabilities.
    for other, sections in ((kd, {"loss", "data"}), (more, {"batch"})):
        assert {key for key in ce if ce[key] != other[key]} == {"out", *sections}
    assert (kd["data"]["path"], kd["teacher"]["source"]) == (str(tmp_path / "kd" / "cached.jsonl"), "cached")
    # Enough epochs for every step.
    for recipe in (ce, more):
        assert recipe["batch"]["epochs"] * SMALL.traces >= recipe["batch"]["max_steps"] * 32
    assert kd["model"]["path"] == str(tmp_path / "base" / "model")
    stage = stage_recipe(SMALL, SMALL.teacher, tmp_path / "teacher", tmp_path / "teacher.jsonl")
    assert stage.loss.alpha == 0
    assert stage.model.path == str(tmp_path / "teacher" / "init")


def test_every_seed_has_every_arm() -> None:
    assert [student.name for student in students(SMALL)] == [
        *("ce-0", "kd-0", "ce_more-0"),
        *("ce-1", "kd-1", "ce_more-1"),
    ]
    with pytest.raises(ValueError, match="repeat one"):
        DistillStudy(seeds=[1, 1])


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path)
    assert load_settings(DistillStudy, tmp_path) == SMALL
    parts = {path.stem: list(read_records(path)) for path in tmp_path.glob("*.jsonl")}
    assert {name: len(records) for name, records in parts.items()} == {
        **{"teacher": 60, "base": 50, "test": 10},
        **{"traces-0": 40, "traces-1": 40},
    }
    test = {record.problem for record in parts.pop("test")}
    assert not any(record.problem in test for records in parts.values() for record in records)
    assert parts["traces-0"] != parts["traces-1"]
    prepare(SMALL, tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        prepare(SMALL.model_copy(update={"alpha": 0.7}), tmp_path)
    with pytest.raises(ValueError, match="no study"):
        load_settings(DistillStudy, tmp_path / "none")


def test_finished_runs_are_not_run_again(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path)
    for name in ("teacher", "base", *(student.name for student in students(SMALL))):
        (tmp_path / name).mkdir()
        result = {"steps": 1, "cpu_seconds": 2.0, "greedy": [1.0, 0.0], "sampled": [0.25, 0.25]}
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    said: list[str] = []
    run_all(SMALL, tmp_path, 2, said.append)
    assert said == []
    assert not list(tmp_path.glob("*.log"))


@pytest.mark.slow
def test_a_failed_run_names_its_log(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path)
    (tmp_path / "teacher.jsonl").write_text("not JSON\n")
    with pytest.raises(ValueError, match=r"the run teacher failed with exit code 2; .*teacher\.log says why"):
        run_all(SMALL, tmp_path, 1, print)
    assert "teacher.jsonl" in (tmp_path / "teacher.log").read_text()


@pytest.mark.slow
def test_the_whole_study_and_its_resumption(tmp_path: Path) -> None:
    sets = [part for change in (*QUICK, "seeds=[0, 1]") for part in ("--set", change)]
    command = [sys.executable, "-m", "benchmarks.learning", "distill", *sets, "--folder", str(tmp_path)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=800)
    assert "kd-1: 5 steps" in first.stdout
    assert "| KD + CE | 5 |" in first.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["arms"]["ce_more"]["steps"] > figures["arms"]["ce"]["steps"] == 5
    assert (tmp_path / "distill.png").stat().st_size > 10_000
    plain, cached = (
        [(record.problem, record.completion) for record in read_records(tmp_path / name)]
        for name in ("traces-0.jsonl", "kd-0/cached.jsonl")
    )
    assert plain == cached
    for name in ("ce-0", "kd-0"):
        assert find_model(str(tmp_path / name / "model")) == tmp_path / name / "model"
    # One lost result is all that is run again.
    (tmp_path / "kd-1" / "result.json").unlink()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=400)
    assert [line.split(":")[0] for line in again.stdout.splitlines() if " CPU-s, solved" in line] == ["kd-1"]
