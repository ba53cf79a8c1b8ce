"""`python -m kit.train` on one CUDA device: every phase and engine, and a run that is stopped and goes on."""

import math
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kit.distill.recipe import DistillRecipe
from kit.training.checkpoint_files import steps_in
from tests.gpu.runs import grouped_student, long_sums, said, started, steps_of, trained
from tests.kit.distill.made import distill_recipe
from tests.kit.grpo.made import grpo_recipe
from tests.kit.prm.made import prm_recipe
from tests.kit.training.made import small_recipe
from tests.kit.training.test_resume import everything, same

pytestmark = pytest.mark.slow

STEPS = 6
LORA = {"rank": 4, "dropout": 0.3}
ZERO: dict[int, dict[str, Any]] = {
    stage: {"engine": "deepspeed", "zero_stage": stage, "timeout": 100.0} for stage in (1, 2, 3)
}


def long_recipe(folder: Path, steps: int = STEPS, **sections: dict[str, Any]) -> DistillRecipe:
    """A run in bfloat16 with recomputation, of rows of hundreds of tokens, two micro-batches a step."""
    folder.mkdir(exist_ok=True)
    if not (folder / "student").exists():
        grouped_student(folder / "student")
        long_sums(folder / "data.jsonl")
    base: dict[str, dict[str, Any]] = {
        "model": {"dtype": "bfloat16", "gradient_checkpointing": True},
        "batch": {"max_length": 2048, "micro_batch_tokens": 2048, "epochs": 100.0, "max_steps": steps},
        "checkpoint": {"every": 0},
        "evaluation": {"every": 0},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return small_recipe(folder, **base)


def losses(steps: list[dict[str, Any]], name: str = "loss") -> list[float]:
    found = [float(step[name]) for step in steps]
    assert all(map(math.isfinite, found))
    return found


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-3), ("bfloat16", 1e-2)])
def test_losses_are_those_of_a_cpu_in_float32(tmp_path: Path, dtype: str, error: float) -> None:
    found = trained("distill", long_recipe(tmp_path, model={"dtype": dtype}))
    expected = trained("distill", long_recipe(tmp_path, model={"dtype": "float32"}), gpu=False)
    assert losses(found) == pytest.approx(losses(expected), rel=error)
    assert losses(found, "grad_norm") == pytest.approx(losses(expected, "grad_norm"), rel=20 * error)
    assert losses(found)[-1] < losses(found)[0]


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
@pytest.mark.timeout(280)
def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(tmp_path: Path, lora: dict[str, Any] | None) -> None:
    """With adapters CUDA's random numbers matter: they drop out."""
    recipe = long_recipe(tmp_path, 150, model={"lora": lora})
    assert len(trained("distill", recipe)) == 150
    expected = everything(recipe.out)
    assert any(name.endswith("/cuda.0") for name in expected["tensors"])
    shutil.rmtree(recipe.out)
    process = started("distill", recipe)
    try:
        until = time.monotonic() + 100
        metrics = recipe.out / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None, said(recipe)
            assert time.monotonic() < until
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 85, said(recipe)
        (step,) = steps_in(recipe.out / "checkpoints")
        assert 0 < step < 150
        process = started("distill", recipe)
        assert process.wait(timeout=100) == 0, said(recipe)
    finally:
        process.kill()
        process.wait()
    assert same(everything(recipe.out), expected) == []


@pytest.mark.parametrize("lora", [None, LORA | {"dropout": 0.0}], ids=["whole", "lora"])
def test_zero_is_plain_torch(tmp_path: Path, lora: dict[str, Any] | None) -> None:
    expected = trained("distill", long_recipe(tmp_path, model={"lora": lora}))
    for stage in (2, 3):
        recipe = long_recipe(tmp_path, model={"lora": lora}, parallel=ZERO[stage])
        found = trained("distill", recipe, launched=True)
        assert losses(found) == pytest.approx(losses(expected), rel=1e-2)
        assert losses(found, "grad_norm") == pytest.approx(losses(expected, "grad_norm"), rel=0.1)


def test_a_checkpoint_goes_from_zero_to_plain_torch(tmp_path: Path) -> None:
    """In float32, where the engines differ by rounding alone."""
    sections: dict[str, dict[str, Any]] = {
        "model": {"dtype": "float32"},
        "checkpoint": {"every": 3, "keep_last": 5},
    }
    whole = long_recipe(tmp_path, STEPS, **sections)
    expected = losses(trained("distill", whole))
    partitioned = long_recipe(tmp_path, STEPS, parallel=ZERO[3], **sections)
    trained("distill", partitioned, launched=True)
    shutil.rmtree(whole.out / "model")
    shutil.rmtree(next((whole.out / "checkpoints").glob("step-*6")))
    process = started("distill", whole)
    assert process.wait(timeout=100) == 0, said(whole)
    assert losses(steps_of(whole.out)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.timeout(120)
def test_offloading_to_the_cpu(tmp_path: Path) -> None:
    expected = trained("distill", long_recipe(tmp_path))
    for stage in (2, 3):
        away = ZERO[stage] | {"offload_optimizer": True, "offload_parameters": stage == 3}
        found = trained("distill", long_recipe(tmp_path, parallel=away), launched=True)
        assert losses(found) == pytest.approx(losses(expected), rel=1e-2)


def test_a_partitioned_teacher_is_the_replicated_one(tmp_path: Path) -> None:
    expected = trained("distill", distill_recipe(tmp_path))
    over = distill_recipe(tmp_path, teacher={"partitioned": True}, parallel=ZERO[3])
    found = trained("distill", over, launched=True)
    for name in ("loss", "kd", "ce"):
        assert losses(found, name) == pytest.approx(losses(expected, name), rel=1e-3)


def test_on_policy_steps_sample_on_the_device(tmp_path: Path) -> None:
    sections: dict[str, dict[str, Any]] = {
        "model": {"dtype": "bfloat16"},
        "loss": {"alpha": 0.6, "on_policy": 1.0, "on_policy_max_tokens": 12},
    }
    assert all(loss > 0 for loss in losses(trained("distill", distill_recipe(tmp_path, **sections))))


@pytest.mark.parametrize("engine", ["torch", "zero3"])
def test_grpo(tmp_path: Path, engine: str) -> None:
    grouped_student(tmp_path / "student")
    recipe = grpo_recipe(
        tmp_path,
        model={"dtype": "bfloat16"},
        batch={"num_episodes": 2},
        **({"parallel": ZERO[3]} if engine == "zero3" else {}),
    )
    found = trained("grpo", recipe, launched=engine == "zero3")
    assert len(found) == 2
    losses(found)
    assert all(norm > 0 for norm in losses(found, "grad_norm"))
    # Old log-probabilities are of the same weights, of rows that may be cut into other micro-batches.
    assert found[0]["ratio"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("head", ["logprob", "token_classification"])
def test_prm(tmp_path: Path, head: str) -> None:
    sections: dict[str, dict[str, Any]] = {
        "batch": {"max_steps": 2},
        "checkpoint": {"every": 0},
        "head": {"kind": head},
    }
    found = trained("prm", prm_recipe(tmp_path, **sections))
    expected = trained("prm", prm_recipe(tmp_path, **sections), gpu=False)
    assert losses(found) == pytest.approx(losses(expected), rel=1e-3)
    short = trained("prm", prm_recipe(tmp_path, model={"dtype": "bfloat16"}, **sections))
    assert losses(short) == pytest.approx(losses(expected), rel=2e-2)
