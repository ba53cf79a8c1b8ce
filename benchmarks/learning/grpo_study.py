"""The study of GRPO: a distilled start for each seed, then a run of each arm from it.

Arms of one seed start from the same weights and take their prompts from the same stream. A run that was
stopped is done again as a whole, so that its CPU-seconds are those of all of it.
"""

import importlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.learning.grpo_settings import FULL, GrpoStudy, grpo_recipe
from benchmarks.learning.runs import (
    begin,
    check_finished,
    keep_settings,
    load_settings,
    run_waiting,
    write_result,
)
from benchmarks.learning.settings import supervised_recipe
from benchmarks.learning.starts import DRAWS, START, ArmRun, run_anew, start_costs, write_problems
from kit.data.records import Record, read_records, write_records
from kit.worked import generate


def policy_runs(study: GrpoStudy) -> list[ArmRun]:
    """The full recipe first, then seed by seed, so that what an early end leaves can be compared."""
    others = [arm for arm in study.arms if arm != FULL]
    return [
        *(ArmRun(FULL, seed) for seed in study.seeds),
        *(ArmRun(arm, seed) for seed in study.seeds for arm in others),
    ]


def prepare(study: GrpoStudy, folder: Path) -> None:
    """Write the settings and the problems into `folder`, once.

    Raises:
        ValueError: the folder holds a study with other settings, or the difficulty has too few problems.
    """
    if not begin(study, folder):
        return
    most = max(study.arm(arm).problems for arm in study.arms)
    write_problems(study, folder, most)
    keep_settings(study, folder)


def run_all(study: GrpoStudy, folder: Path, jobs: int, say: Callable[[str], None]) -> None:
    """Every run that has no result yet: the starts, then the arms, `jobs` at a time.

    Args:
        say: is called with one line for each run that ended.

    Raises:
        ValueError: a run failed; the message names its log.
    """
    prepare(study, folder)
    run_waiting("grpo-one", start_costs(study.seeds), folder, jobs, say)
    costs = {run.name: float(study.arm(run.arm).steps) for run in policy_runs(study)}
    run_waiting("grpo-one", costs, folder, jobs, say)


def run_one(folder: Path, name: str) -> None:
    """Distil one seed's start, or train one arm from it; examine it, and write its result."""
    # Loaded before the clock starts: libraries take as long to import as several steps.
    for library in (
        "torch",
        "transformers",
        "kit.distill.phase",
        "kit.grpo.phase",
        "kit.grpo.samplers.local",
    ):
        importlib.import_module(library)
    study = load_settings(GrpoStudy, folder)
    result = run_anew(
        folder,
        name,
        study.seeds,
        policy_runs(study),
        start=lambda seed: train_start(study, folder, seed),
        arm=lambda run: train_policy(study, folder, run),
    )
    test = list(read_records(folder / "test.jsonl"))
    write_result(folder, name, {"run": name, **result, **_examined(study, folder / name / "model", test)})


def train_start(study: GrpoStudy, folder: Path, seed: int) -> dict[str, Any]:
    """Distil a seed's start into its folder, and say how far each round came.

    Returns:
        `rounds`: steps done, and shares of the validation problems solved after each.
        `validation`: the same shares of the start, by other draws than those it was chosen by.
    """
    from kit.distill.phase import distill
    from kit.small import make_small_model

    start, out = study.start, folder / f"{START}-{seed}"
    model = make_small_model(out / "init", **start.model.model_dump(), seed=seed)
    validation = list(read_records(folder / "validation.jsonl"))
    began, examined, steps = time.process_time(), 0.0, 0
    rounds: list[dict[str, float]] = []
    for number in range(start.rounds + 1):
        update = {"steps": start.first_steps} if number == 0 else {}
        training = start.training.model_copy(update=update)
        rows = training.steps * training.batch_size
        place = out / f"round-{number}"
        write_records(place / "data.jsonl", _worked(study, rows, seed * DRAWS + number))
        recipe = supervised_recipe(
            training,
            out=place,
            start=model,
            data=(place / "data.jsonl", rows),
            max_length=study.max_prompt + study.max_completion,
            seed=seed,
        )
        check_finished(distill(recipe))
        model, steps = place / "model", steps + training.steps
        before = time.process_time()
        shares = _shares(_examined(study, model, validation))
        examined += time.process_time() - before
        rounds.append({"steps": steps, **shares})
        if shares["sampled"] >= start.stop_accuracy:
            break
    spent = time.process_time() - began - examined
    shutil.copytree(model, out / "model")
    for place in out.glob("round-*"):
        shutil.rmtree(place)
    again = _shares(_examined(study, out / "model", validation, draw=1))
    return {"steps": steps, "cpu_seconds": spent, "rounds": rounds, "validation": again}


def train_policy(study: GrpoStudy, folder: Path, run: ArmRun) -> dict[str, Any]:
    """One run of GRPO, its cost and its curves.

    Returns:
        `curve`: by step, the shares of the validation problems solved by one completion each.
        `training`: by step, the reward and how many groups were replaced.
    """
    from kit.grpo.phase import grpo
    from kit.training.metrics import read_metrics

    recipe = grpo_recipe(study, folder, run.arm, run.seed)
    began = time.process_time()
    check_finished(grpo(recipe))
    spent = time.process_time() - began
    lines = list(read_metrics(recipe.out / "metrics.jsonl"))
    names = ("reward", "groups_replaced", "groups_without_signal", "clip_low_fraction", "clip_high_fraction")
    result = {
        "steps": recipe.batch.num_episodes,
        "cpu_seconds": spent,
        "curve": [
            {
                "step": line.step,
                "sampled": line.values["accuracy"],
                "greedy": line.values["greedy_accuracy"],
            }
            for line in lines
            if line.kind == "eval"
        ],
        "training": {
            name: [line.values.get(name, 0.0) for line in lines if line.kind == "train"] for name in names
        },
    }
    # Some 20 MB a run, which nothing reads any more.
    for part in ("rollouts", "checkpoints"):
        shutil.rmtree(recipe.out / part)
    return result


def _worked(study: GrpoStudy, count: int, seed: int) -> list[Record]:
    return generate(count, "train", seed, study.difficulty)


def _examined(
    study: GrpoStudy, model: Path, records: list[Record], *, draw: int = 0
) -> dict[str, list[float]]:
    """Share of right completions of each problem, greedy and at temperature 1."""
    from benchmarks.learning.accuracy import solved

    limit = study.max_completion
    return {
        "greedy": solved(model, records, temperature=0, seed=draw, max_new_tokens=limit),
        "sampled": solved(
            model, records, temperature=1, seed=draw, max_new_tokens=limit, samples=study.samples
        ),
    }


def _shares(examined: dict[str, list[float]]) -> dict[str, float]:
    return {measure: sum(values) / len(values) for measure, values in examined.items()}
