"""Whole runs: engines and ranks agree, LoRA, balance, windows, what is exported, the contest's scorers."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.readers import read_labelled
from kit.prm.recipe import PrmRecipe
from tests.kit.prm.made import prm_recipe, train
from tests.kit.training.workers import launch

HEADS = ("token_classification", "process_reward", "logprob")
SMOOTH = {"lr": 1e-4, "eps": 1e-4, "warmup_ratio": 0.0}


def metrics_of(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["values"] | {"step": line["step"]} for line in lines if line["kind"] == kind]


def run(recipe: PrmRecipe, world_size: int = 1) -> list[dict[str, Any]]:
    """Train afresh; the steps' values."""
    shutil.rmtree(recipe.out, ignore_errors=True)
    ended = launch(train, world_size, recipe.model_dump(mode="json"))
    assert ended.codes == [0] * world_size, ended.errors
    return metrics_of(recipe.out)


def served(folder: Path, records: list[Any]) -> list[list[float]]:
    """Scores by the contest's own scorer."""
    from submission.prm.transformers_scorer import TransformersScorer

    scorer = TransformersScorer(folder)

    async def scores() -> list[list[float]]:
        await scorer.start()
        try:
            return [(await scorer.score_steps(one.problem, ["\n\n".join(one.steps)]))[0] for one in records]
        finally:
            await scorer.close()

    return asyncio.run(scores())


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_engines_and_ranks_agree(tmp_path: Path, head: str) -> None:
    base: dict[str, dict[str, Any]] = {"head": {"kind": head}, "optimizer": SMOOTH, "batch": {"max_steps": 5}}
    expected = run(prm_recipe(tmp_path, **base))
    assert [line["trained_tokens"] for line in expected][-1] > 0
    evaluated = metrics_of(tmp_path / "run", "eval")[-1]
    form = json.loads((tmp_path / "run" / "model" / "prm.json").read_text())
    stages = (0, 2, 3) if head == "token_classification" else (3,)
    for stage in stages:
        parallel = {"engine": "deepspeed", "zero_stage": stage} if stage else {}
        found = run(prm_recipe(tmp_path, **base, parallel=parallel), 2)
        for ours, theirs in zip(found, expected, strict=True):
            for name in ("loss", "accuracy", "grad_norm", "trained_tokens", "step_tokens"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-3), (name, parallel)
        again = metrics_of(tmp_path / "run", "eval")[-1]
        assert again == pytest.approx(evaluated, rel=1e-3)
        told = json.loads((tmp_path / "run" / "model" / "prm.json").read_text())
        assert told.pop("scale") == pytest.approx(form["scale"], rel=1e-2)
        assert told.pop("bias") == pytest.approx(form["bias"], rel=1e-2)
        assert told == {key: value for key, value in form.items() if key not in ("scale", "bias")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "lora"), [("token_classification", None), ("process_reward", {}), ("logprob", {})]
)
def test_what_is_exported_scores_as_in_training(
    tmp_path: Path, head: str, lora: dict[str, Any] | None
) -> None:
    """The contest's scorer, on the exported folder, gives the log-odds that training saw, calibrated."""
    from submission.prm.heads import read_prm

    recipe = prm_recipe(
        tmp_path,
        head={"kind": head},
        model={"lora": {"rank": 4, **lora} if lora is not None else None},
        optimizer={"lr": 5e-3},
        evaluation={"every": 4, "export": "last"},
    )
    first, *_, last = run(recipe)
    assert last["loss"] < first["loss"]
    folder = recipe.out / "model"
    form = read_prm(folder)
    assert form.head == head
    records = list(read_labelled(recipe.data.path))
    held_out = [one for one in records if int(one.problem_id, 16) < int(0.2 * 16**12)]
    scores = served(folder, held_out)
    assert [len(found) for found in scores] == [len(one.steps) for one in held_out]
    # The run's last evaluation had the log-odds before calibration: undo it, and its loss is the served one.
    losses = []
    calibrated = []
    for one, found in zip(held_out, scores, strict=True):
        wrong = next((index for index, label in enumerate(one.labels) if label == 0), len(one.labels) - 1)
        for chance, label in list(zip(found, one.labels, strict=True))[: wrong + 1]:
            calibrated.append(-np.log(chance if label else 1 - chance))
            if head == "logprob":
                continue
            x = (np.log(chance / (1 - chance)) - form.bias) / form.scale
            losses.append(np.logaddexp(0, -x) if label else np.logaddexp(0, x))
    evaluated = metrics_of(recipe.out, "eval")[-1]["loss"]
    if losses:
        assert float(np.mean(losses)) == pytest.approx(evaluated, rel=1e-4)
    assert float(np.mean(calibrated)) <= evaluated + 1e-4  # what calibration is for
    if lora is not None:
        assert (recipe.out / "model-adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_a_scorer_is_trained_on(tmp_path: Path) -> None:
    """The exported classifier is a start of its own: its layer is kept, not drawn."""
    recipe = prm_recipe(tmp_path, head={"kind": "process_reward"}, evaluation={"export": "last"})
    run(recipe)
    shutil.move(recipe.out / "model", tmp_path / "trained")
    before = metrics_of(recipe.out)[-1]
    again = prm_recipe(
        tmp_path,
        head={"kind": "process_reward"},
        model={"path": str(tmp_path / "trained")},
        optimizer={"lr": 1e-9},
        batch={"batch_size": 40},
    )
    first = run(again)[0]
    assert first["loss"] == pytest.approx(metrics_of(again.out)[1]["loss"], abs=0.2)
    assert first["loss"] < 0.69
    assert before["loss"] < 0.69


@pytest.mark.slow
def test_the_best_checkpoint_is_exported(tmp_path: Path) -> None:
    """With a rate that ruins the model at the end, the export is the best evaluation's weights."""
    from safetensors.torch import load_file

    sections: dict[str, dict[str, Any]] = {
        "head": {"kind": "token_classification"},
        "optimizer": {"lr": 0.3, "schedule": "constant", "warmup_ratio": 1.0, "max_grad_norm": 0.0},
        "evaluation": {"every": 3, "metric": "loss", "export": "best"},
        "checkpoint": {"every": 3},
    }
    recipe = prm_recipe(tmp_path, **sections)
    run(recipe)
    evaluated = metrics_of(recipe.out, "eval")
    best = min(evaluated, key=lambda line: (line["loss"], -line["step"]))
    assert best["step"] < evaluated[-1]["step"]
    whole = {
        name.removeprefix("weight/"): tensor
        for path in (recipe.out / "checkpoints" / f"step-{best['step']:08d}").glob("*.safetensors")
        for name, tensor in load_file(path).items()
        if name.startswith("weight/")
    }
    exported = load_file(recipe.out / "model" / "model.safetensors")
    assert all(np.array_equal(exported[name].numpy(), whole[name].numpy()) for name in exported)


@pytest.mark.slow
def test_windows_train_and_count_as_one_solution(tmp_path: Path) -> None:
    recipe = prm_recipe(
        tmp_path,
        batch={"max_length": 56, "overlong": "truncate", "max_steps": 2},
        evaluation={"every": 2},
        data={"after_error": "keep"},
    )
    run(recipe)
    summary = next((recipe.out / "tokens").glob("*/summary.json"))
    counts = json.loads(summary.read_text())["counts"]
    lengths = np.load(summary.parent / "train" / "ends.npy")
    assert len(lengths) > counts["solutions"]
    assert metrics_of(recipe.out, "eval")


@pytest.mark.slow
def test_what_is_wrong_is_told_before_a_step(tmp_path: Path) -> None:
    def refused(recipe: PrmRecipe, expected: str) -> None:
        import re

        (error,) = launch(train, 1, recipe.model_dump(mode="json")).errors
        assert error.startswith("ValueError"), error
        assert re.search(expected, error), error
        assert not (recipe.out / "metrics.jsonl").exists()

    from tests.tiny import make_tiny_checkpoint

    make_tiny_checkpoint(tmp_path / "llama", layers=1)
    llama = {"path": str(tmp_path / "llama")}
    head = {"kind": "process_reward"}
    refused(prm_recipe(tmp_path, head=head, model=llama), "'process_reward' is Qwen2's, and .* is a llama")
    refused(prm_recipe(tmp_path, batch={"max_length": 4096}), "over the 2048 positions")
    refused(prm_recipe(tmp_path, batch={"max_length": 40}), "no row is left to train on .longer than")
    refused(prm_recipe(tmp_path, data={"path": str(tmp_path / "none.jsonl")}), "there is no file or folder")
    run(prm_recipe(tmp_path, batch={"max_steps": 1}))
    (tmp_path / "run" / "metrics.jsonl").unlink()
    refused(prm_recipe(tmp_path, batch={"max_steps": 2}), "checkpoint .* is another run's: batch.max_steps")


@pytest.mark.slow
def test_vllm_serves_what_is_exported(tmp_path: Path) -> None:
    """The same scores as transformers gives them."""
    pytest.importorskip("vllm")
    from submission.prm.vllm_scorer import VllmScorer
    from submission.settings import EngineSettings

    head = {"kind": "process_reward"}
    recipe = prm_recipe(tmp_path, head=head, optimizer={"lr": 5e-3}, batch={"max_steps": 6})
    run(recipe)
    folder = recipe.out / "model"
    records = list(read_labelled(recipe.data.path))[:4]
    scorer = VllmScorer(folder, EngineSettings(cpu_kv_cache_gib=1, max_num_seqs=8))

    async def scores() -> list[list[float]]:
        await scorer.start()
        try:
            return [(await scorer.score_steps(one.problem, ["\n\n".join(one.steps)]))[0] for one in records]
        finally:
            await scorer.close()

    for ours, theirs in zip(asyncio.run(scores()), served(folder, records), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3)
