"""The study's plan and its way through a stop. The slow test trains for real, a few steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.learning.__main__ import QUICK
from benchmarks.learning.settings import DISTILL, DistillStudy, student_recipe, teacher_recipe
from benchmarks.learning.study import load_study, prepare, run_all, students
from benchmarks.shared import ROOT
from kit.data.records import read_records
from kit.training.model import find_model

SMALL = DistillStudy(teacher_problems=60, train_problems=40, test_problems=10, seeds=[0, 1])


def test_the_shipped_settings_are_the_promised_study() -> None:
    study = DistillStudy.load(DISTILL)
    assert len(study.seeds) == 5
    assert study.test_problems >= 500
    assert (study.alpha, study.temperature) == (0.5, 2.0)
    # "Smaller" in every size that costs time.
    assert study.student.hidden * study.student.layers < study.teacher.hidden * study.teacher.layers


def test_arms_differ_in_the_loss_or_the_steps_alone(tmp_path: Path) -> None:
    ce, kd, more = (
        student_recipe(SMALL, tmp_path / arm, arm, 1, tmp_path / "start").model_dump()
        for arm in ("ce", "kd", "ce_more")
    )
    assert (ce["loss"]["alpha"], kd["loss"]["alpha"], more["loss"]["alpha"]) == (0, 0.5, 0)
    assert (ce["batch"]["max_steps"], more["batch"]["max_steps"]) == (600, 960)
    for other, section in ((kd, "loss"), (more, "batch")):
        assert {key for key in ce if ce[key] != other[key]} == {"out", section}
    # Enough epochs for every step.
    for recipe in (ce, more):
        assert recipe["batch"]["epochs"] * SMALL.train_problems >= recipe["batch"]["max_steps"] * 32
    assert kd["teacher"]["path"] == str(tmp_path / "teacher" / "model")
    assert teacher_recipe(SMALL, tmp_path / "teacher").loss.alpha == 0


def test_every_seed_has_every_arm() -> None:
    assert [student.name for student in students(SMALL)] == [
        *("ce-0", "kd-0", "ce_more-0"),
        *("ce-1", "kd-1", "ce_more-1"),
    ]
    with pytest.raises(ValueError, match="repeat one"):
        DistillStudy(seeds=[1, 1])
    with pytest.raises(ValueError, match="train_problems 41 are taken from the teacher's"):
        DistillStudy(train_problems=41, teacher_problems=40)


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path)
    assert load_study(tmp_path) == SMALL
    train, test = (list(read_records(tmp_path / f"{split}.jsonl")) for split in ("train", "test"))
    assert (len(train), len(test)) == (40, 10)
    known = list(read_records(tmp_path / "teacher.jsonl"))
    assert len(known) == 60 and known[:40] == train
    assert not {record.problem for record in known} & {record.problem for record in test}
    prepare(SMALL, tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        prepare(SMALL.model_copy(update={"alpha": 0.7}), tmp_path)
    with pytest.raises(ValueError, match="no study"):
        load_study(tmp_path / "none")


def test_finished_runs_are_not_run_again(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path)
    for name in ("teacher", *(student.name for student in students(SMALL))):
        (tmp_path / name).mkdir()
        result = {"steps": 1, "cpu_seconds": 2.0, "greedy": [1.0, 0.0], "sampled": [0.25, 0.25]}
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    said: list[str] = []
    run_all(SMALL, tmp_path, 2, said.append)
    assert said == ["teacher: 1 steps, 2 CPU-s, solved 0.500 greedy, 0.250 sampled"]
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
    start = [(tmp_path / run / "init" / "model.safetensors").read_bytes() for run in ("ce-0", "kd-0", "ce-1")]
    assert start[0] == start[1] != start[2]
    for name in ("ce-0", "kd-0"):
        assert find_model(str(tmp_path / name / "model")) == tmp_path / name / "model"
    # One lost result is all that is run again.
    (tmp_path / "kd-1" / "result.json").unlink()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=400)
    assert [line.split(":")[0] for line in again.stdout.splitlines() if " CPU-s, solved" in line] == [
        "teacher",
        "kd-1",
    ]
