"""Whole runs of GRPO on real engines: ranks, partitions, adapters, references, evaluation, learning."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.data.records import Record, write_records
from kit.grpo.recipe import GrpoRecipe
from kit.grpo.table import read_table, table_path
from tests.kit.grpo.made import ENGINES, grpo_recipe, rewarded, train
from tests.kit.training.workers import launch
from tests.tiny import make_tiny_checkpoint

pytestmark = pytest.mark.slow


def run(recipe: GrpoRecipe, world_size: int = 1) -> list[dict[str, Any]]:
    """Train afresh; the steps' values."""
    shutil.rmtree(recipe.out, ignore_errors=True)
    ended = launch(train, world_size, recipe.model_dump(mode="json"))
    assert ended.codes == [0] * world_size, ended.errors
    return values_of(recipe.out)


def values_of(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["values"] | {"step": line["step"]} for line in lines if line["kind"] == kind]


def drawn(out: Path) -> list[Any]:
    """Ids and rewards of all completions, by step."""
    import polars as pl

    columns = ["prompt", "position", "attempt", "ids", "reward", "advantage"]
    paths = sorted((out / "rollouts").glob("*.parquet"))
    return [pl.read_parquet(path, columns=columns).rows() for path in paths]


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def refused(recipe: GrpoRecipe, expected: str, world_size: int = 1) -> None:
    """All ranks end with this error, and none waits for another."""
    import re

    ended = launch(train, world_size, recipe.model_dump(mode="json"), timeout=60.0)
    assert all(code > 0 for code in ended.codes), ended
    for error in ended.errors:
        assert error.startswith("ValueError") and re.search(expected, error), error


# --- ranks and engines ------------------------------------------------------------------------------------


def test_completions_do_not_depend_on_ranks_and_engines(tmp_path: Path) -> None:
    """Seeds belong to the stream's positions. The rates of learning are the same but for rounding."""
    smooth: dict[str, dict[str, Any]] = {
        "optimizer": {"lr": 1e-4, "eps": 1e-4},
        "rewards": rewarded("coin"),
        "batch": {"minibatches": 2},
        "policy": {"kl_coef": 0.1},
    }
    expected = run(grpo_recipe(tmp_path, **smooth))
    tables = drawn(tmp_path / "run")
    assert len(tables) == 4 and [len(rows) for rows in tables] == [12] * 4
    assert sum(values["groups_replaced"] for values in expected) > 0
    model, start = weights_of(tmp_path / "run" / "model"), weights_of(tmp_path / "student")
    for engine, world_size in (("torch", 2), ("zero2", 2), ("zero3", 1), ("zero3", 2)):
        found = run(grpo_recipe(tmp_path, parallel=ENGINES[engine], **smooth), world_size)
        assert drawn(tmp_path / "run") == tables, engine
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.keys() == theirs.keys()
            for name in ("loss", "grad_norm", "ratio", "kl", "reward", "tokens", "rows_moving"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-6), (engine, name)
        for name, tensor in weights_of(tmp_path / "run" / "model").items():
            moved = float((model[name] - start[name]).abs().max())
            assert float((tensor - model[name]).abs().max()) < 1e-2 * moved, (engine, name)


@pytest.mark.parametrize(
    ("engine", "world_size", "model"),
    [
        ("torch", 1, {}),
        ("torch", 2, {"dtype": "bfloat16"}),
        ("torch", 1, {"lora": {"rank": 2}}),
        ("torch", 1, {"gradient_checkpointing": True}),
        ("zero2", 2, {"lora": {"rank": 2}}),
        ("zero3", 2, {}),
        ("zero3", 2, {"dtype": "bfloat16", "gradient_checkpointing": True}),
    ],
)
def test_the_first_ratio_is_one_and_the_first_divergence_zero(
    tmp_path: Path, engine: str, world_size: int, model: dict[str, Any]
) -> None:
    """To the last bit, through the scores: a reference that is loaded, or the model without its adapters.

    The second step's divergence is not: the policy has moved."""
    recipe = grpo_recipe(
        tmp_path,
        parallel=ENGINES[engine],
        model=model,
        batch={"num_episodes": 2},
        policy={"kl_coef": 0.1, "mismatch": "sequence", "kind": "gspo"},
        rollout={"temperature": 0.8},
    )
    assert recipe.rescored
    first, second = run(recipe, world_size)
    for values in (first, second):
        assert values["ratio"] == 1.0
        assert values["clip_low_fraction"] == values["clip_high_fraction"] == 0.0
        assert values["updates"] == 1
    assert first["kl"] == 0.0 < second["kl"]


# --- steps that teach nothing -----------------------------------------------------------------------------


def test_a_run_without_any_signal(tmp_path: Path) -> None:
    recipe = grpo_recipe(tmp_path, rewards=rewarded("same"))
    values = run(recipe, 2)
    assert [one["updates"] for one in values] == [0] * 4
    assert [(one["groups_without_signal"], one["skipped_steps"]) for one in values] == [(3, 0)] * 4
    begun, ended = weights_of(tmp_path / "student"), weights_of(tmp_path / "run" / "model")
    assert all(bool((ended[name] == tensor).all()) for name, tensor in begun.items())


def test_completions_that_the_limit_cut_are_not_trained_on(tmp_path: Path) -> None:
    """Nearly all of a random model's."""
    expected = run(grpo_recipe(tmp_path))
    masked = run(grpo_recipe(tmp_path, policy={"mask_cut_off": True}))
    # A reward that is its group's mean has no advantage.
    assert all(9 <= one["rows_moving"] <= 12 for one in expected)
    assert masked[0]["cut_off_share"] == expected[0]["cut_off_share"] > 0.5
    assert masked[0]["rows_moving"] <= round(12 * (1 - masked[0]["cut_off_share"]))
    assert [one["updates"] == 0 for one in masked] == [one["rows_moving"] == 0 for one in masked]


def test_too_many_rewards_that_are_missing(tmp_path: Path) -> None:
    recipe = grpo_recipe(tmp_path, rewards=rewarded("never"))
    expected = r"12 of 12 samples of a step have no reward, more than rollout\.max_failed_share=0\.1: .*never"
    refused(recipe, expected, 2)
    # What it says to raise may be raised, and the run goes on.
    lenient = grpo_recipe(tmp_path, rewards=rewarded("rarely"), rollout={"max_failed_share": 0.9})
    shutil.rmtree(tmp_path / "run")
    assert launch(stopped_after, 1, lenient.model_dump(mode="json"), 2).result["steps"] == 2
    more = grpo_recipe(tmp_path, rewards=rewarded("rarely"), rollout={"max_failed_share": 0.95})
    assert launch(train, 1, more.model_dump(mode="json")).result["steps"] == 4
    lost = [one["samples_lost"] for one in values_of(tmp_path / "run")]
    assert len(lost) == 4 and sum(lost) > 0


def stopped_after(recipe: dict[str, Any], step: int) -> dict[str, Any]:
    """Train, and send this process a signal in a step."""
    import os
    import signal

    from kit.training import loop

    original = loop._Run._one_step

    def signalled(self: Any, number: int) -> Any:
        if number + 1 == step:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, number)

    loop._Run._one_step = signalled  # type: ignore[method-assign, assignment]
    return train(recipe)


# --- adapters and references ------------------------------------------------------------------------------


def base_weights(recipe: dict[str, Any]) -> bool:
    """Train; whether every base weight in the engine is the checkpoint's at the end, bit for bit."""
    from kit.training import phase

    kept: list[bool] = []
    export = vars(phase)["export"]

    def looked(engine: Any, *rest: Any) -> None:
        start = weights_of(Path(recipe["model"]["path"]))
        found = {
            name.replace(".base_layer.", "."): tensor.clone()
            for name, tensor in engine.weights()
            if ".lora_" not in name
        }
        assert found.keys() == start.keys()
        kept.append(all(bool((found[name] == tensor).all()) for name, tensor in start.items()))
        export(engine, *rest)

    vars(phase)["export"] = looked
    train(recipe)
    assert kept, "nothing was exported"
    return all(kept)


@pytest.mark.parametrize(("engine", "world_size"), [("torch", 1), ("zero3", 2)])
def test_adapters_leave_the_base_alone(tmp_path: Path, engine: str, world_size: int) -> None:
    from safetensors.torch import load_file

    recipe = grpo_recipe(
        tmp_path,
        parallel=ENGINES[engine],
        model={"lora": {"rank": 2}},
        policy={"kl_coef": 0.1, "reference_every": 2},
        optimizer={"lr": 0.01},
    )
    assert launch(base_weights, world_size, recipe.model_dump(mode="json")).results == [True] * world_size
    adapter = load_file(tmp_path / "run" / "model-adapter" / "adapter_model.safetensors")
    assert any(bool(tensor.any()) for name, tensor in adapter.items() if "lora_B" in name)
    begun, ended = weights_of(tmp_path / "student"), weights_of(tmp_path / "run" / "model")
    assert any(bool((ended[name] != tensor).any()) for name, tensor in begun.items())
    kl = [one["kl"] for one in values_of(tmp_path / "run")]
    # At the third step the merged policy becomes the reference: equal but for the rounding of the merge.
    assert kl[0] == 0.0 and kl[1] > 1e-7 and 0 <= kl[2] < kl[1] / 10 and kl[3] > kl[2]


@pytest.mark.parametrize(("engine", "world_size"), [("torch", 1), ("zero2", 2), ("zero3", 2)])
def test_the_policy_becomes_the_reference(tmp_path: Path, engine: str, world_size: int) -> None:
    recipe = grpo_recipe(tmp_path, parallel=ENGINES[engine], policy={"kl_coef": 0.1, "reference_every": 2})
    kl = [one["kl"] for one in run(recipe, world_size)]
    assert kl[0] == kl[2] == 0.0 and kl[1] > 0 and kl[3] > 0
    assert [path.name for path in (tmp_path / "run" / "reference").iterdir()] == ["step-00000002"]


# --- learning and evaluation ------------------------------------------------------------------------------


def lucky(folder: Path, **sections: dict[str, Any]) -> GrpoRecipe:
    """A model that says the right answer to every problem by chance: one of its 263 tokens."""
    make_tiny_checkpoint(
        folder / "student", vocab_texts=["\\boxed{7}", "\\boxed{8}"], hidden=32, heads=1, layers=2, seed=1
    )
    problems = [Record(problem=f"What is {n} + {7 - n}?", answer="7") for n in range(30)]
    write_records(folder / "data.jsonl", problems)
    base: dict[str, dict[str, Any]] = {
        "data": {"validation_share": 0.3},
        "batch": {"batch_size": 4, "group_size": 16, "num_episodes": 12},
        "rewards": {"answer": 1.0, "accept_cut_off": True, "functions": {}},
        "rollout": {"refill_rounds": 4},
        "optimizer": {"lr": 0.02},
        "evaluation": {"every": 2},
        "checkpoint": {"every": 2, "keep_last": 1, "keep_best": 1},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return grpo_recipe(folder, **base)


def test_a_model_learns_to_be_right(tmp_path: Path) -> None:
    """From a few right answers in a hundred to all of them, on problems that it was not trained on too."""
    values = run(lucky(tmp_path))
    assert values[0]["accuracy"] < 0.3
    assert values[-1]["accuracy"] == values[-1]["reward"] == values[-1]["reward/answer"] > 0.9
    evaluations = values_of(tmp_path / "run", "eval")
    assert [one["step"] for one in evaluations] == [2, 4, 6, 8, 10, 12]
    assert evaluations[-1]["accuracy"] > 0.9 and evaluations[-1]["greedy_accuracy"] > 0.9
    rollouts = read_table(table_path(tmp_path / "run" / "rollouts", 0), _digest(tmp_path / "run"))
    assert rollouts is not None
    for group in rollouts.groups:
        for one, scored in zip(group.completions, group.scored, strict=True):
            assert (scored.total == 1.0) == scored.correct
            assert not scored.correct or "\\boxed{7}" in one.text  # type: ignore[union-attr]


def _digest(out: Path) -> str:
    import polars as pl

    about = pl.read_parquet(table_path(out / "rollouts", 0), columns=["about"], n_rows=1)["about"][0]
    digest: str = json.loads(about)["run"]
    return digest


def judged(recipe: dict[str, Any], accuracies: list[float]) -> dict[str, Any]:
    """Train with evaluations that give these accuracies in turn."""
    from kit.grpo.steps import GrpoSteps

    left = iter(accuracies)
    GrpoSteps.evaluate = lambda self: {"accuracy": next(left)}  # type: ignore[method-assign]
    return train(recipe)


def test_the_best_checkpoint_has_the_highest_accuracy(tmp_path: Path) -> None:
    recipe = lucky(tmp_path, batch={"num_episodes": 8, "group_size": 4}, rollout={"refill_rounds": 0})
    given = [0.2, 0.9, 0.5, 0.4]
    assert launch(judged, 1, recipe.model_dump(mode="json"), given).result["evaluation"] == {"accuracy": 0.4}
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert kept == ["step-00000004", "step-00000008"]


# --- nothing is left behind -------------------------------------------------------------------------------


def left_behind(recipe: dict[str, Any]) -> list[str]:
    """Command lines of this process's children after a run."""
    import psutil

    train(recipe)
    return [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]


def test_no_process_is_left_behind(tmp_path: Path) -> None:
    recipe = grpo_recipe(tmp_path, rewards={"answer": 1.0} | {"functions": rewarded()["functions"]})
    assert launch(left_behind, 1, recipe.model_dump(mode="json")).result == []
