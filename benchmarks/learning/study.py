"""The distillation study: a teacher and a base model, then students of each arm and seed.

Every run has a process and a folder of its own, and leaves `result.json` there: a study that was killed goes
on where it stopped. Students of one seed start from the same weights and see the same batches.
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
from benchmarks.learning.settings import ARMS, Arm, DistillStudy, Stage, stage_recipe, student_recipe
from benchmarks.shared import ROOT
from kit.data.records import read_records, write_records
from kit.worked import generate
from submission.files import write_text

TEACHER, BASE = "teacher", "base"
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
    task = study.teacher.difficulty
    write_records(folder / "teacher.jsonl", generate(study.teacher.problems, "train", 0, task))
    write_records(folder / "base.jsonl", generate(study.base.problems, "train", 0, study.base.difficulty))
    for seed in study.seeds:
        written = task.model_copy(update={"slips": study.slips})
        write_records(folder / f"traces-{seed}.jsonl", generate(study.traces, "train", seed + 1, written))
    write_records(folder / "test.jsonl", generate(study.test_problems, "test", study.test_seed, task))
    write_text(path, settings)


def run_all(study: DistillStudy, folder: Path, jobs: int, say: Callable[[str], None]) -> None:
    """Every run that has no result yet: teacher and base, then the students, `jobs` at a time.

    Args:
        say: is called with one line for each run that ended.

    Raises:
        ValueError: a run failed; the message names its log.
    """
    prepare(study, folder)
    _run({TEACHER: 1.0, BASE: 1.0}, folder, jobs, say)
    _run({student.name: _relative_cost(study, student) for student in students(study)}, folder, jobs, say)


def _run(costs: dict[str, float], folder: Path, jobs: int, say: Callable[[str], None]) -> None:
    """Runs by name, with what each takes in any one unit."""
    waiting = {name: cost for name, cost in costs.items() if not (folder / name / RESULT).exists()}
    started, done = time.monotonic(), 0.0
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_in_own_process, folder, name): name for name in waiting}
        try:
            for future in as_completed(futures):
                future.result()
                name = futures[future]
                done += waiting[name]
                left = (time.monotonic() - started) * (sum(waiting.values()) - done) / done
                say(f"{_line(folder, name)}; about {left / 60:.0f} min left of these runs")
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
    """Train and examine the teacher, the base or one student, and write its result."""
    # Loaded before the clock starts: libraries take as long to import as some hundred steps.
    for library in ("torch", "transformers", "kit.distill.phase", "kit.traces.teacher_pass"):
        importlib.import_module(library)
    from benchmarks.learning.accuracy import solved

    study = load_study(folder)
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
    write_text(folder / name / RESULT, json.dumps(result) + "\n")


def train_stage(study: DistillStudy, stage: Stage, folder: Path, name: str) -> Path:
    """The teacher's or the base's checkpoint, trained from random weights."""
    from kit.distill.phase import distill
    from kit.small import make_small_model

    out = folder / name
    make_small_model(out / "init", **stage.model.model_dump(), seed=0)
    distill(stage_recipe(study, stage, out, folder / f"{name}.jsonl"))
    return out / "model"


def train_student(study: DistillStudy, seed: int, arm: Arm, folder: Path) -> Path:
    """One student's checkpoint; `kd` needs the teacher's cache in its folder."""
    from kit.distill.phase import distill

    out = folder / Student(arm, seed).name
    distill(student_recipe(study, folder, arm, seed, out))
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
