"""What goes wrong in a step is skipped, counted and written down, and too much of it ends the run."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kit.data.records import Record, read_records, write_records
from kit.distill.recipe import DistillRecipe
from tests.kit.training.made import small_recipe
from tests.kit.training.workers import launch

ENGINES: dict[str, dict[str, Any]] = {
    "torch": {"engine": "torch"},
    "zero2": {"engine": "deepspeed", "zero_stage": 2},
    "zero3": {"engine": "deepspeed", "zero_stage": 3},
}
POISONED = (3, 5)


def poison(recipe: dict[str, Any], steps: tuple[int, ...]) -> dict[str, Any]:
    """Train with a loss that is not a number in some steps, on one rank's rows alone."""
    from kit.distill import objective
    from kit.distill.phase import distill
    from kit.training import loop

    now, rank = [-1], int(os.environ["RANK"])
    one_step = loop._Run._one_step
    told = objective.DistillObjective.token_loss

    def counted(self: Any, step: int) -> Any:
        now[0] = step
        try:
            return one_step(self, step)
        finally:
            now[0] = -1  # evaluations are left alone

    def poisoned(self: Any, micro: Any) -> Any:
        inner = told(self, micro)

        def loss(logits: Any, part: slice) -> Any:
            values, others = inner(logits, part)
            if now[0] in steps and rank == 0:
                values = values * float("nan")
            return values, others

        return loss

    loop._Run._one_step = counted  # type: ignore[method-assign]
    objective.DistillObjective.token_loss = poisoned  # type: ignore[method-assign]
    outcome = distill(DistillRecipe.parse(recipe, "the test"))
    return {"steps": outcome.steps, "skipped": outcome.skipped}


def lines_of(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "dtype", "world_size"),
    [
        ("torch", "float32", 2),
        ("torch", "bfloat16", 1),
        ("zero2", "float32", 2),
        ("zero2", "bfloat16", 2),
        ("zero3", "float32", 1),
        ("zero3", "bfloat16", 2),
    ],
)
def test_a_step_that_is_not_a_number_is_skipped(
    tmp_path: Path, engine: str, dtype: str, world_size: int
) -> None:
    """The weights after it are those before it: the next steps learn on as if it had not been."""
    recipe = small_recipe(
        tmp_path,
        parallel=ENGINES[engine],
        model={"dtype": dtype},
        batch={"max_steps": 8},
        faults={"max_skipped_share": 0.5},
        evaluation={"every": 0},
    )
    ended = launch(poison, world_size, recipe.model_dump(mode="json"), POISONED)
    assert ended.result == {"steps": 8, "skipped": 2}
    lines = lines_of(tmp_path / "run")
    for line in lines:
        bad = line["step"] - 1 in POISONED
        assert ("grad_norm" in line.get("nonfinite", {})) == bad, line
        assert (line["values"]["loss"] is None) == bad
    assert [line["values"]["skipped_steps"] for line in lines] == [0, 0, 0, 1, 1, 2, 2, 2]
    from safetensors.torch import load_file

    model = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in model.values())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "zero3"])
def test_a_skipped_step_changes_nothing(tmp_path: Path, engine: str) -> None:
    """Every step is poisoned, yet allowed: the model is the one that it began with."""
    from safetensors.torch import load_file

    recipe = small_recipe(
        tmp_path,
        parallel=ENGINES[engine],
        batch={"max_steps": 3},
        faults={"max_skipped_share": 1.0},
        evaluation={"every": 0},
    )
    assert launch(poison, 1, recipe.model_dump(mode="json"), tuple(range(3))).result["skipped"] == 3
    begun = load_file(tmp_path / "student" / "model.safetensors")
    ended = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(bool((ended[name] == tensor).all()) for name, tensor in begun.items())


@pytest.mark.slow
def test_too_many_skipped_steps_end_the_run(tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path, faults={"max_skipped_share": 0.3, "grace_steps": 4}, evaluation={"every": 0}
    )
    ended = launch(poison, 2, recipe.model_dump(mode="json"), tuple(range(2, 9)))
    assert all(code != 0 for code in ended.codes)
    assert all(
        "2 of 4 steps were skipped" in error and "faults.max_skipped_share=0.3" in error
        for error in ended.errors
    ), ended.errors
    assert lines_of(tmp_path / "run")[-1]["step"] == 4


def train(recipe: dict[str, Any]) -> dict[str, Any]:
    from kit.distill.phase import distill

    outcome = distill(DistillRecipe.parse(recipe, "the test"))
    return {"steps": outcome.steps}


@pytest.mark.slow
def test_lost_and_cut_rows_are_told(tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path,
        batch={"max_length": 90, "overlong": "truncate", "max_steps": 2},
        data={"validation_share": 0},
    )
    path = tmp_path / "data.jsonl"
    made = list(read_records(path))
    write_records(path, [*made, Record(problem="Void"), Record(problem="P" * 200, completion="x")])
    assert launch(train, 1, recipe.model_dump(mode="json")).result == {"steps": 2}
    (summary,) = (tmp_path / "run" / "tokens").glob("*/summary.json")
    counts = json.loads(summary.read_text())["counts"]
    assert counts["records dropped (no completion)"] == 1
    assert counts["records dropped (prompt alone as long as batch.max_length)"] == 1
    assert counts["rows cut by the length limit"] > 0


def evaluated_badly(recipe: dict[str, Any]) -> dict[str, Any]:
    """Train with evaluations that are not numbers."""
    from dataclasses import replace

    from kit.training import table_steps

    evaluate = vars(table_steps)["evaluate"]
    vars(table_steps)["evaluate"] = lambda *given: replace(evaluate(*given), loss=float("nan"))
    return train(recipe)


@pytest.mark.slow
def test_an_evaluation_that_is_not_a_number_is_written_down_and_saved(tmp_path: Path) -> None:
    from kit.training.checkpoint_files import read_manifest, step_folder

    recipe = small_recipe(tmp_path, batch={"max_steps": 6}, evaluation={"every": 2})
    made = recipe.model_dump(mode="json")
    assert launch(evaluated_badly, 1, made).result == {"steps": 6}
    manifest = read_manifest(step_folder(tmp_path / "run" / "checkpoints", 6))
    assert manifest.metric is None
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    bad = [line for line in lines if line["kind"] == "eval"]
    assert [line["nonfinite"] for line in bad] == [{"loss": "nan"}] * 3
    assert launch(evaluated_badly, 1, made).result == {"steps": 6}  # the checkpoint can be read again
