"""The distillation study: a teacher and a base model, then students of each arm and seed.

Students of one seed start from the same weights and see the same batches.
"""

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.learning.cache import cache_teacher
from benchmarks.learning.runs import (
    begin,
    check_finished,
    keep_settings,
    load_settings,
    run_waiting,
    write_result,
)
from benchmarks.learning.settings import ARMS, Arm, DistillStudy, Stage, stage_recipe, student_recipe
from kit.data.records import read_records, write_records
from kit.worked import generate

TEACHER, BASE = "teacher", "base"


class Student(NamedTuple):
    """One student's run."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}-{self.seed}"


def students(study: DistillStudy) -> list[Student]:
    """Seed by seed, so that what an early end leaves can be compared."""
    return [Student(arm, seed) for seed in study.seeds for arm in ARMS]


def prepare(study: DistillStudy, folder: Path) -> None:
    """Write the settings and the problems into `folder`, once.

    Raises:
        ValueError: the folder holds a study with other settings, or the difficulty has too few problems.
    """
    if not begin(study, folder):
        return
    task = study.teacher.difficulty
    write_records(folder / "teacher.jsonl", generate(study.teacher.problems, "train", 0, task))
    write_records(folder / "base.jsonl", generate(study.base.problems, "train", 0, study.base.difficulty))
    for seed in study.seeds:
        written = task.model_copy(update={"slips": study.slips})
        write_records(folder / f"traces-{seed}.jsonl", generate(study.traces, "train", seed + 1, written))
    write_records(folder / "test.jsonl", generate(study.test_problems, "test", study.test_seed, task))
    keep_settings(study, folder)


def run_all(study: DistillStudy, folder: Path, jobs: int, say: Callable[[str], None]) -> None:
    """Every run that has no result yet: teacher and base, then the students, `jobs` at a time.

    Args:
        say: is called with one line for each run that ended.

    Raises:
        ValueError: a run failed; the message names its log.
    """
    prepare(study, folder)
    run_waiting("one", {TEACHER: 1.0, BASE: 1.0}, folder, jobs, say)
    costs = {student.name: _relative_cost(study, student) for student in students(study)}
    run_waiting("one", costs, folder, jobs, say)


def _relative_cost(study: DistillStudy, student: Student) -> float:
    return study.arm_steps(student.arm) * (study.compute_ratio if student.arm == "kd" else 1.0)


def run_one(folder: Path, name: str) -> None:
    """Train and examine the teacher, the base or one student, and write its result."""
    # Loaded before the clock starts: libraries take as long to import as some hundred steps.
    for library in ("torch", "transformers", "kit.distill.phase", "kit.traces.teacher_pass"):
        importlib.import_module(library)
    from benchmarks.learning.accuracy import solved

    study = load_settings(DistillStudy, folder)
    student = next((student for student in students(study) if student.name == name), None)
    if student is None and name not in (TEACHER, BASE):
        raise ValueError(f"no run {name!r} in this study")
    started, cache = time.process_time(), 0.0
    if student is not None:
        if student.arm == "kd":
            traces, out = folder / f"traces-{student.seed}.jsonl", folder / name / "cached.jsonl"
            cache = cache_teacher(folder / TEACHER / "model", traces, out, study.temperature)
        model, steps = train_student(study, student.seed, student.arm, folder), study.arm_steps(student.arm)
    else:
        stage = study.teacher if name == TEACHER else study.base
        model, steps = train_stage(study, stage, folder, name), stage.training.steps
    spent = time.process_time() - started

    test = list(read_records(folder / "test.jsonl"))
    result = {
        "run": name,
        "steps": steps,
        "cpu_seconds": spent,
        "cache_seconds": cache,
        "greedy": solved(model, test, temperature=0, seed=0),
        "sampled": solved(model, test, temperature=1, seed=0, samples=study.samples),
    }
    write_result(folder, name, result)


def train_stage(study: DistillStudy, stage: Stage, folder: Path, name: str) -> Path:
    """The teacher's or the base's checkpoint, trained from random weights."""
    from kit.distill.phase import distill
    from kit.small import make_small_model

    out = folder / name
    make_small_model(out / "init", **stage.model.model_dump(), seed=0)
    check_finished(distill(stage_recipe(study, stage, out, folder / f"{name}.jsonl")))
    return out / "model"


def train_student(study: DistillStudy, seed: int, arm: Arm, folder: Path) -> Path:
    """One student's checkpoint; `kd` needs the teacher's cache in its folder."""
    from kit.distill.phase import distill

    out = folder / Student(arm, seed).name
    check_finished(distill(student_recipe(study, folder, arm, seed, out)))
    return out / "model"
