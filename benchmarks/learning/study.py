"""The distillation study: one teacher, then students of each arm and seed, each in a process of its own.

Everything lies in one folder, and each finished run leaves `result.json` in its own: a study that was killed
goes on where it stopped. Students of the same seed start from the same weights and see the same batches.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.learning.cache import cache_teacher
from benchmarks.learning.settings import ARMS, Arm, DistillStudy, student_recipe, teacher_recipe
from benchmarks.shared import ROOT
from kit.data.records import read_records, write_records
from kit.worked import generate
from submission.files import write_text

TEACHER = "teacher"
RESULT = "result.json"


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
    settings = study.model_dump_json(indent=1) + "\n"
    path = folder / "settings.json"
    if path.exists():
        if path.read_text(encoding="utf-8") != settings:
            raise ValueError(
                f"{folder} holds a study with other settings: name another folder with --folder, or remove it"
            )
        return
    known = generate(study.teacher_problems, "train", study.data_seed, study.difficulty)
    write_records(folder / "teacher.jsonl", known)
    write_records(folder / "train.jsonl", known[: study.train_problems])
    write_records(
        folder / "test.jsonl", generate(study.test_problems, "test", study.data_seed, study.difficulty)
    )
    write_text(path, settings)


def run_all(study: DistillStudy, folder: Path, jobs: int, say: Callable[[str], None]) -> None:
    """Every run that has no result yet: the teacher first, then the students, `jobs` at a time.

    Args:
        say: is called with one line for each run that ended.

    Raises:
        ValueError: a run failed; the message names its log.
    """
    prepare(study, folder)
    if not (folder / TEACHER / RESULT).exists():
        _in_own_process(folder, TEACHER)
    say(_line(folder, TEACHER))
    waiting = [student for student in students(study) if not (folder / student.name / RESULT).exists()]
    # Work left, in steps of a student without a teacher.
    cost = {student: _relative_cost(study, student) for student in waiting}
    started, done = time.monotonic(), 0.0
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_in_own_process, folder, student.name): student for student in waiting}
        try:
            for future in as_completed(futures):
                future.result()
                student = futures[future]
                done += cost[student]
                left = (time.monotonic() - started) * (sum(cost.values()) - done) / done
                say(f"{_line(folder, student.name)}; about {left / 60:.0f} min left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _relative_cost(study: DistillStudy, student: Student) -> float:
    return study.arm_steps(student.arm) * (study.compute_ratio if student.arm == "kd" else 1.0)


def _line(folder: Path, name: str) -> str:
    result = read_result(folder, name)
    greedy, sampled = (sum(result[key]) / len(result[key]) for key in ("greedy", "sampled"))
    return (
        f"{name}: {result['steps']} steps, {result['cpu_seconds']:.0f} CPU-s, solved {greedy:.3f} greedy, "
        f"{sampled:.3f} sampled"
    )


def _in_own_process(folder: Path, name: str) -> None:
    """One thread for each run: that is the fastest for models of this size, and equal for all arms."""
    command = [sys.executable, "-m", "benchmarks.learning", "one", str(folder), name]
    log = folder / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        ended = subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    if ended.returncode:
        raise ValueError(f"the run {name} failed with exit code {ended.returncode}; {log} says why")


def run_one(folder: Path, name: str) -> None:
    """Train and examine the teacher or one student of the study in `folder`, and write its result."""
    # Loaded before the clock starts: libraries take as long to import as some hundred steps.
    for library in ("torch", "transformers", "kit.distill.phase"):
        importlib.import_module(library)
    from benchmarks.learning.accuracy import solved

    study = load_study(folder)
    started = time.process_time()
    cache = 0.0
    if name == TEACHER:
        model, steps = train_teacher(study, folder), study.teacher_training.steps
        cache = cache_teacher(model, folder / "train.jsonl", folder / "cached.jsonl", study.temperature)
    else:
        student = next((student for student in students(study) if student.name == name), None)
        if student is None:
            raise ValueError(f"no run {name!r} in this study")
        model, steps = train_student(study, student.seed, student.arm, folder), study.arm_steps(student.arm)
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
    write_text(folder / name / RESULT, json.dumps(result) + "\n")


def train_teacher(study: DistillStudy, folder: Path) -> Path:
    """The teacher's checkpoint, trained from random weights."""
    from kit.distill.phase import distill
    from kit.small import make_small_model

    out = folder / TEACHER
    if not (out / "init" / "config.json").exists():
        make_small_model(out / "init", **study.teacher.model_dump(), seed=0)
    distill(teacher_recipe(study, out))
    return out / "model"


def train_student(study: DistillStudy, seed: int, arm: Arm, folder: Path) -> Path:
    """One student's checkpoint. Its first weights depend on the seed alone."""
    from kit.distill.phase import distill
    from kit.small import make_small_model

    out = folder / Student(arm, seed).name
    # The teacher's first weights came from seed 0: a student of the same shape must not start there.
    start = make_small_model(out / "init", **study.student.model_dump(), seed=seed + 1)
    distill(student_recipe(study, out, arm, seed, start))
    return out / "model"


def load_study(folder: Path) -> DistillStudy:
    """The settings that `folder` was made with."""
    try:
        text = (folder / "settings.json").read_text(encoding="utf-8")
    except OSError:
        raise ValueError(f"{folder} holds no study: it has no settings.json") from None
    return DistillStudy.parse(json.loads(text), str(folder / "settings.json"))


def read_result(folder: Path, name: str) -> dict[str, Any]:
    """What `run_one` wrote."""
    result: dict[str, Any] = json.loads((folder / name / RESULT).read_text(encoding="utf-8"))
    return result
