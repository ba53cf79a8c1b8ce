"""The recipe: what ships parses, and what cannot work is refused with the key and the way out."""

from pathlib import Path
from typing import Any

import pytest

from kit.grpo.recipe import GrpoRecipe

SHIPPED = sorted((Path(__file__).resolve().parents[3] / "kit" / "recipes").glob("grpo_*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = GrpoRecipe.load(path)
    assert recipe.out.name == path.stem
    assert recipe.batch.max_length > recipe.rollout.max_completion_tokens


def test_there_are_shipped_recipes() -> None:
    assert "grpo_cpu" in [path.stem for path in SHIPPED]


def test_the_defaults_are_a_recipe() -> None:
    assert GrpoRecipe.load().policy.kind == "dapo"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("policy.klcoef=1", r"unknown key 'policy\.klcoef' \(did you mean 'kl_coef'\?\)"),
        ("rolout.top_p=1", r"unknown key 'rolout' \(did you mean 'rollout'\?\)"),
        ("batch.overlong=drop", r"unknown key 'batch\.overlong'"),
        ("batch.group_size=1", r"batch\.group_size: .*greater than or equal to 2"),
        ("policy.kind=ppo", r"policy\.kind"),
        ("policy.mismatch_cap=0.5", r"policy\.mismatch_cap: .*greater than or equal to 1"),
        ("rollout.temperature=0", r"rollout\.temperature: .*greater than 0"),
        ("curriculum.revisit=0", r"curriculum\.revisit: .*greater than 0"),
        ("policy.clip_low=nan", r"policy\.clip_low"),
        ("data.user_prompt=Solve.", r"user_prompt 'Solve\.' must hold \{problem\} exactly once"),
        ("policy.reference_every=5", r"policy\.reference_every needs policy\.kl_coef above 0"),
        ("rewards.answer=0", r"all weights are 0"),
        ("rewards.prm=1", r"rewards\.prm and prm go together"),
        ("prm=./model", r"rewards\.prm and prm go together"),
        ("rollout.max_completion_tokens=16384", r"leaves no room for a prompt in batch\.max_length=16384"),
        ('rewards.functions={"no path" = 1.0}', r"'no path' is no import path"),
    ],
)
def test_what_is_wrong_is_named(override: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        GrpoRecipe.load(overrides=[override])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["rollout.overlap=true", "rollout.sampler=local"],
            r'rollout\.overlap needs rollout\.sampler = "vllm"',
        ),
        (
            ["data.min_pass_rate=0.9", "data.max_pass_rate=0.1"],
            r"min_pass_rate 0\.9 is above max_pass_rate 0\.1",
        ),
        (["model.lora.dropout=0.1"], r"model\.lora\.dropout=0\.1 must be 0"),
        (["policy.mismatch=sequence", "rollout.top_p=0.9"], r'needs rollout\.top_p = 1 .*use "token"'),
        (["policy.mismatch=sequence", "rollout.min_p=0.1"], r'needs rollout\.top_p = 1 .*use "token"'),
        (["parallel.engine=torch", "parallel.offload_optimizer=true"], r"offloading needs"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        GrpoRecipe.load(overrides=overrides)


@pytest.mark.parametrize(
    ("sections", "steps", "rescored"),
    [
        ({}, 1, False),
        ({"batch": {"minibatches": 3}}, 3, True),
        ({"batch": {"epochs": 2, "minibatches": 3}}, 6, True),
        ({"rollout": {"overlap": True}}, 1, True),
        ({"policy": {"mismatch": "sequence"}}, 1, True),
        ({"policy": {"mismatch": "none"}}, 1, False),
    ],
)
def test_when_old_log_probabilities_are_worked_out(
    sections: dict[str, Any], steps: int, rescored: bool
) -> None:
    recipe = GrpoRecipe.parse(sections, "the test")
    assert (recipe.optimizer_steps, recipe.rescored) == (steps, rescored)
