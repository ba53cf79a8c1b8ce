"""`--dry-run` of GRPO: what it says, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kit.grpo.plan import print_plan, training_memory, work_of
from kit.grpo.recipe import GrpoRecipe
from kit.train import app
from kit.training.estimate.memory import Cluster
from kit.training.estimate.shape import shape_of

RECIPES = Path(__file__).resolve().parents[3] / "kit" / "recipes"
MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"


def recipe(*overrides: str) -> GrpoRecipe:
    return GrpoRecipe.load(RECIPES / "grpo_qwen32b.toml", overrides)


def values(*overrides: str) -> dict[str, str]:
    return dict(work_of(recipe(*overrides), shape_of(MODEL)))


def test_the_seeds_parameters_are_the_recipes() -> None:
    made = recipe()
    assert (made.batch.batch_size, made.batch.num_episodes) == (16, 1000)
    assert (made.optimizer.lr, made.policy.kl_coef) == (5e-6, 0.0)
    assert "open-r1" in made.data.path
    assert GrpoRecipe().batch.batch_size == 16
    assert GrpoRecipe().optimizer.lr == 5e-6


def test_work_by_hand() -> None:
    found = values()
    assert found["completions"] == "256,000"  # 1000 x 16 x 16
    assert found["tokens sampled at least"] == "1,024,000,000"  # x 4000
    assert "log-probabilities before the update" not in found
    twice = values("batch.epochs=2", "batch.minibatches=4")
    assert twice["optimizer steps"] == "8,000"
    assert "log-probabilities before the update" in twice


def test_sampling_is_added_or_overlapped() -> None:
    speed = "assume.sampling_tokens_per_second=10000"
    apart, beside = values(speed), values(speed, "rollout.overlap=true")
    assert apart["hours of sampling at the assumed speed"] == "28.44"  # 1.024e9 / 1e4 / 3600
    training = float(apart["hours of training at the assumed utilization"])
    assert float(apart["hours together"]) == pytest.approx(28.44 + training, abs=0.02)
    assert beside["hours together"] == "28.44"


def test_a_reference_takes_memory_but_not_with_lora() -> None:
    def peak(*overrides: str) -> int:
        return training_memory(recipe(*overrides), shape_of(MODEL), Cluster(16)).gpu_peak

    assert peak("policy.kl_coef=0.01") > peak() + 4e9
    lora: tuple[str, ...] = ("model.lora.rank=16",)
    assert peak(*lora, "policy.kl_coef=0.01") == peak(*lora)
    names = [
        item.name for item in training_memory(recipe("policy.kl_coef=0.01"), shape_of(MODEL), Cluster(16)).gpu
    ]
    assert any("reference" in name for name in names)
    assert not any("teacher" in name for name in names)


def test_what_cannot_fit_is_refused_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"offload_optimizer|GPUs|LoRA"):
        print_plan(recipe("assume.gpus=2"))
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "code", "words"), [((), 0, "hours of training"), (("assume.gpus=2",), 1, "")]
)
def test_the_command(overrides: tuple[str, ...], code: int, words: str) -> None:
    given: list[Any] = ["grpo", str(RECIPES / "grpo_qwen32b.toml"), *overrides, "--dry-run"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == code
    assert words in result.output
