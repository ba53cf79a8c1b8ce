"""What the study of GRPO is run with: `grpo.toml` beside this file, every value checked."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from benchmarks.learning.settings import ModelShape, Training
from kit.grpo.recipe import GrpoRecipe
from kit.worked import Difficulty
from submission.recipes import Recipe

GRPO = Path(__file__).parent / "grpo.toml"
FULL = "full"
"""The arm that the others are compared with."""


class StartSettings(Recipe):
    """How a seed's start is distilled: cross-entropy on worked solutions, no problem twice in a round.

    After a first round of `first_steps` come rounds of `training.steps`, each with its own warm-up and decay
    to 0, up to the first that solves `stop_accuracy` of the validation problems. Small models sit on a
    plateau for a time that differs from seed to seed: after one number of steps they solve anything from
    0.03 to 0.8.
    """

    model: ModelShape = ModelShape()
    training: Training = Training()
    first_steps: int = Field(default=250, ge=1)
    rounds: int = Field(default=30, ge=1)
    """Rounds after the first at most; the run goes on from what is there then."""
    stop_accuracy: float = Field(default=0.25, gt=0, lt=1)
    """Share solved at temperature 1."""


class PolicySettings(Recipe):
    """One GRPO run: what arms differ in. Everything else is the kit's default."""

    problems: int = Field(default=6_000, ge=1)
    """Different ones, that prompts are drawn from."""
    steps: int = Field(default=100, ge=1)
    """Batches of roll-outs."""
    batch_size: int = Field(default=32, ge=1)
    group_size: int = Field(default=8, ge=2)
    minibatches: int = Field(default=1, ge=1)
    epochs: int = Field(default=1, ge=1)
    lr: float = Field(default=2e-4, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    kind: Literal["grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo"] = "dapo"
    clip_low: float = Field(default=0.2, ge=0)
    clip_high: float = Field(default=0.28, ge=0)
    refill_rounds: int = Field(default=3, ge=0)


class ArmSettings(Recipe):
    """One arm."""

    label: str = Field(min_length=1)
    """In the table."""
    change: dict[str, Any] = Field(default_factory=dict)
    """Keys of `PolicySettings` that it sets otherwise."""


class GrpoStudy(Recipe):
    """GRPO from a small distilled model, and the same without one ingredient each, on the same prompts."""

    start: StartSettings = StartSettings()
    policy: PolicySettings = PolicySettings()
    arms: dict[str, ArmSettings] = Field(default={FULL: ArmSettings(label="full")}, min_length=1)
    """By name. `full` is there and changes nothing; all others are compared with it."""
    difficulty: Difficulty = Difficulty()
    """Of the problems to distil from and to train on."""
    measured: Difficulty = Difficulty()
    """Of validation and test problems."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=2, max_length=10)
    """A start and a run of each arm for each, with problems of its own."""
    test_problems: int = Field(default=512, ge=1)
    test_seed: int = Field(default=0, ge=0)
    """Of the draw of test problems. A design that was changed after a look at one draw wants another."""
    samples: int = Field(default=4, ge=1)
    """Completions a test problem at temperature 1."""
    validation_problems: int = Field(default=256, ge=1)
    evaluate_every: int = Field(default=20, ge=1)
    """Steps between two points of the curve on the validation problems."""
    max_prompt: int = Field(default=48, ge=8)
    """Tokens of a problem at most."""
    max_completion: int = Field(default=64, ge=8)
    """Tokens of a solution at most: just above the longest right one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat one: each must be another start")
        if FULL not in self.arms or self.arms[FULL].change:
            raise ValueError(f"arms must have {FULL!r}, without changes: the others are compared with it")
        for name in self.arms:
            if not name.isidentifier():
                raise ValueError(f"arm {name!r} is a folder's name, too: letters, digits and _ only")
            self.arm(name)
        return self

    def arm(self, name: str) -> PolicySettings:
        """The settings of an arm, its changes made.

        Raises:
            ValueError: a change names no setting, or a value that is not valid.
        """
        change = self.arms[name].change
        return PolicySettings.parse({**self.policy.model_dump(), **change}, f"arms.{name}.change")


def grpo_recipe(study: GrpoStudy, folder: Path, arm: str, seed: int) -> GrpoRecipe:
    """One run in the study's `folder`."""
    policy = study.arm(arm)
    length = study.max_prompt + study.max_completion
    rows = policy.batch_size * policy.group_size
    return GrpoRecipe.parse(
        {
            "out": folder / f"{arm}-{seed}",
            "seed": seed,
            "model": {
                "path": str(folder / f"start-{seed}" / "model"),
                "dtype": "float32",
                "gradient_checkpointing": False,
            },
            "data": {
                "path": str(folder / f"problems-{seed}.jsonl"),
                "limit": policy.problems,
                "validation": str(folder / "validation.jsonl"),
                "system_prompt": "",
            },
            "batch": {
                "batch_size": policy.batch_size,
                "group_size": policy.group_size,
                "num_episodes": policy.steps,
                "epochs": policy.epochs,
                "minibatches": policy.minibatches,
                "max_length": length,
                # One forward pass a minibatch; see `settings.supervised_recipe`.
                "micro_batch_tokens": rows * length,
                "packing": False,
                "seed": seed,
            },
            "rollout": {
                "sampler": "local",
                "temperature": 1.0,
                "top_p": 1.0,
                "min_p": 0.0,
                "max_completion_tokens": study.max_completion,
                "refill_rounds": policy.refill_rounds,
                "engine": {"max_num_seqs": max(rows, study.validation_problems), "max_model_len": length},
            },
            "policy": {"kind": policy.kind, "clip_low": policy.clip_low, "clip_high": policy.clip_high},
            "rewards": {"answer": 1.0},
            "optimizer": {"lr": policy.lr, "schedule": policy.schedule},
            "parallel": {"engine": "torch"},
            "checkpoint": {"every": 0, "keep_last": 1, "asynchronous": False},
            "logging": {"live": "never"},
            "evaluation": {"every": study.evaluate_every, "rows": study.validation_problems},
        },
        "the study's settings",
    )
