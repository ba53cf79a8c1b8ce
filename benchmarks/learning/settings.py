"""What the studies of learning are run with: `distill.toml` beside this file, every value checked."""

import math
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from kit.distill.recipe import DistillRecipe
from kit.worked import Difficulty
from submission.recipes import Recipe

DISTILL = Path(__file__).parent / "distill.toml"

Arm = Literal["ce", "kd", "ce_more"]
ARMS: tuple[Arm, ...] = ("ce", "kd", "ce_more")
"""`ce` and `kd` see the same tokens; `ce` and `ce_more` differ in steps only."""


class ModelShape(Recipe):
    """Arguments of `kit.small.make_small_model`."""

    hidden: int = Field(default=64, ge=32)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=2, ge=1)
    intermediate: int = Field(default=128, ge=1)


class Training(Recipe):
    """One run of AdamW with warm-up and cosine decay to 0."""

    steps: int = Field(default=600, ge=1)
    batch_size: int = Field(default=32, ge=1)
    lr: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


class Stage(Recipe):
    """Plain cross-entropy from random weights on as many generated problems."""

    problems: int = Field(default=40_000, ge=1)
    difficulty: Difficulty = Difficulty()
    model: ModelShape = ModelShape()
    training: Training = Training()


class DistillStudy(Recipe):
    """Cross-entropy against distillation, from the same weights on the same traces in the same order.

    The students start from one `base` model, as they do in earnest: it has learnt the arithmetic from bare
    problems of two operands, but neither the wording nor the chain of steps. Few traces teach it these. From
    random weights, when such a model gets over its first plateau is a matter of luck, and hides all else.
    """

    teacher: Stage = Stage()
    """Its difficulty is that of the traces and of the held-out problems, too."""
    base: Stage = Stage()
    traces: int = Field(default=300, ge=1)
    """Worked problems that a student learns from; each seed draws others."""
    slips: float = Field(default=0.0, ge=0, le=1)
    """Share of the traces with a wrong step, as in sets that nobody verified. The teacher's own are right."""
    student_training: Training = Training()
    alpha: float = Field(default=0.5, gt=0, le=1)
    temperature: float = Field(default=2.0, gt=0)
    compute_ratio: float = Field(default=1.75, ge=1)
    """Steps of `ce_more` as a multiple of the others': at least what `kd` costs more, the teacher's pass over
    the traces included. The page shows the measured CPU-seconds of both."""
    seeds: list[int] = Field(default=[0, 1, 2, 3, 4], min_length=2, max_length=10)
    """One student of each arm a seed, which decides its traces and the order of its batches."""
    test_problems: int = Field(default=512, ge=1)
    test_seed: int = Field(default=0, ge=0)
    """Of the draw of test problems. A design that was changed after a look at one draw wants another."""
    samples: int = Field(default=4, ge=1)
    """Completions a test problem at temperature 1."""
    max_length: int = Field(default=96, ge=8)
    """Tokens of a problem with its solution at most."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat one: each must be another student")
        return self

    def arm_steps(self, arm: Arm) -> int:
        """Optimizer steps of one student."""
        steps = self.student_training.steps
        return math.ceil(steps * self.compute_ratio) if arm == "ce_more" else steps


def stage_recipe(study: DistillStudy, stage: Stage, out: Path, data: Path) -> DistillRecipe:
    """The teacher's or the base model's own training, from the checkpoint in `out`/init."""
    return supervised_recipe(
        stage.training, out=out, start=out / "init", data=(data, stage.problems), max_length=study.max_length
    )


def student_recipe(study: DistillStudy, folder: Path, arm: Arm, seed: int, out: Path) -> DistillRecipe:
    """One student's run in the study's `folder`."""
    # The same traces; those of `kd` name the teacher's log-probabilities of their tokens.
    traces = out / "cached.jsonl" if arm == "kd" else folder / f"traces-{seed}.jsonl"
    return supervised_recipe(
        study.student_training.model_copy(update={"steps": study.arm_steps(arm)}),
        out=out,
        start=folder / "base" / "model",
        data=(traces, study.traces),
        max_length=study.max_length,
        seed=seed,
        alpha=study.alpha if arm == "kd" else 0.0,
        temperature=study.temperature,
    )


def supervised_recipe(
    training: Training,
    *,
    out: Path,
    start: Path,
    data: tuple[Path, int],
    max_length: int,
    seed: int = 0,
    alpha: float = 0.0,
    temperature: float = 1.0,
) -> DistillRecipe:
    """A run of so many steps, however few the data.

    Args:
        start: checkpoint to begin from.
        data: records with completions, and how many there are.
        alpha: share of distillation in the loss; 0 is cross-entropy alone.
    """
    path, rows = data
    batch = {
        "batch_size": training.batch_size,
        "max_length": max_length,
        "overlong": "drop",
        # One forward pass a step. Packed into one row, short sequences would cost more in attention on a CPU
        # than their padding does.
        "micro_batch_tokens": training.batch_size * max_length,
        "packing": False,
        "epochs": math.ceil(training.steps * training.batch_size / rows) + 1,
        "max_steps": training.steps,
        "seed": seed,
    }
    return DistillRecipe.parse(
        {
            "out": out,
            "seed": seed,
            "model": {"path": str(start), "dtype": "float32", "gradient_checkpointing": False},
            "batch": batch,
            "optimizer": {"lr": training.lr, "weight_decay": training.weight_decay},
            "parallel": {"engine": "torch"},
            "checkpoint": {"every": 0, "keep_last": 1, "asynchronous": False},
            "logging": {"live": "never"},
            "data": {"path": str(path)},
            "teacher": {"source": "cached"},
            "loss": {"alpha": alpha, "temperature": temperature},
        },
        "the study's settings",
    )
