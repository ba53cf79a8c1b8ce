"""What the study of process reward models is run with: `prm.toml` beside this file, every value checked."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from benchmarks.learning.grpo_settings import ArmSettings, GrpoStudy, StartSettings
from kit.prm.recipe import PrmRecipe
from kit.worked import Difficulty
from submission.prm.heads import Head
from submission.recipes import Recipe

PRM = Path(__file__).parent / "prm.toml"


class ScorerSettings(Recipe):
    """One training of a scorer, from the policy's own weights. Everything else is the kit's default."""

    head: Head = "logprob"
    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=64, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    scalar_lr: float = Field(default=0.02, gt=0)


class PrmStudy(Recipe):
    """A small policy for each seed, its own solutions with the truth of each step, and a scorer by arm."""

    start: StartSettings = StartSettings()
    scorer: ScorerSettings = ScorerSettings()
    arms: dict[str, ArmSettings] = Field(default={"logprob": ArmSettings(label="logprob")}, min_length=1)
    difficulty: Difficulty = Difficulty()
    """Of the problems that the policy is distilled from, and that scorers learn on."""
    measured: Difficulty = Difficulty()
    """Of validation and test problems."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=2, max_length=10)
    problems: int = Field(default=750, ge=1)
    """Whose solutions a scorer learns from, `attempts` each."""
    attempts: int = Field(default=8, ge=2)
    """Solutions of a problem, in training and in the votes."""
    test_problems: int = Field(default=500, ge=2)
    test_seed: int = Field(default=0, ge=0)
    """Of the draw of test problems. A design that was changed after a look at one draw wants another."""
    validation_problems: int = Field(default=200, ge=1)
    samples: int = Field(default=4, ge=1)
    """Completions of a validation problem, while the policy is distilled."""
    max_prompt: int = Field(default=48, ge=8)
    max_completion: int = Field(default=64, ge=8)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat one: each must be another policy")
        for name in self.arms:
            if not name.isidentifier():
                raise ValueError(f"arm {name!r} is a folder's name, too: letters, digits and _ only")
            self.arm(name)
        return self

    def arm(self, name: str) -> ScorerSettings:
        """The settings of an arm, its changes made.

        Raises:
            ValueError: a change names no setting, or a value that is not valid.
        """
        change = self.arms[name].change
        return ScorerSettings.parse({**self.scorer.model_dump(), **change}, f"arms.{name}.change")

    def policies(self) -> GrpoStudy:
        """The study that distils the policies: they are GRPO's starts."""
        shared = ("start", "difficulty", "measured", "seeds", "validation_problems", "samples")
        given = self.model_dump(mode="json")
        sizes = ("max_prompt", "max_completion")
        return GrpoStudy.parse({name: given[name] for name in (*shared, *sizes)}, "the study's settings")


def prm_recipe(study: PrmStudy, folder: Path, arm: str, seed: int) -> PrmRecipe:
    """One training in the study's `folder`."""
    scorer = study.arm(arm)
    length = study.max_prompt + study.max_completion
    settings: dict[str, Any] = {
        "out": folder / f"{arm}-{seed}",
        "seed": seed,
        "model": {
            "path": str(folder / f"start-{seed}" / "model"),
            "dtype": "float32",
            "gradient_checkpointing": False,
        },
        "data": {"path": str(folder / f"start-{seed}" / "steps.jsonl"), "validation_share": 0.1},
        "head": {"kind": scorer.head, "scalar_lr": scorer.scalar_lr},
        "batch": {
            "batch_size": scorer.batch_size,
            "max_length": length,
            # One forward pass a step; see `settings.supervised_recipe`.
            "micro_batch_tokens": scorer.batch_size * length,
            "packing": False,
            "epochs": 1000.0,
            "max_steps": scorer.steps,
            "seed": seed,
        },
        "optimizer": {"lr": scorer.lr},
        "parallel": {"engine": "torch"},
        "checkpoint": {"every": 50, "keep_last": 1, "asynchronous": False},
        "evaluation": {"every": 50, "rows": 512, "metric": "loss"},
        "logging": {"live": "never"},
    }
    return PrmRecipe.parse(settings, "the study's settings")
