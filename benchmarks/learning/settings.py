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


class DistillStudy(Recipe):
    """Cross-entropy against distillation, from the same weights on the same traces in the same order."""

    difficulty: Difficulty = Difficulty()
    teacher_problems: int = Field(default=40_000, ge=1)
    """Traces that the teacher learns from."""
    train_problems: int = Field(default=1_500, ge=1)
    """Traces that the students learn from, the first of the teacher's: few, as real traces are, and used for
    several epochs."""
    test_problems: int = Field(default=512, ge=1)
    samples: int = Field(default=4, ge=1)
    """Completions a test problem at temperature 1."""
    max_length: int = Field(default=96, ge=8)
    """Tokens of a problem with its solution at most."""
    data_seed: int = Field(default=1, ge=0)
    seeds: list[int] = Field(default=[0, 1, 2, 3, 4], min_length=2, max_length=10)
    """One student of each arm a seed: its first weights and the order of its batches."""
    teacher: ModelShape = ModelShape()
    teacher_training: Training = Training()
    student: ModelShape = ModelShape()
    student_training: Training = Training()
    alpha: float = Field(default=0.5, gt=0, le=1)
    temperature: float = Field(default=2.0, gt=0)
    compute_ratio: float = Field(default=1.6, ge=1)
    """Steps of `ce_more` as a multiple of the others': at least what a step with the teacher costs more.
    The page shows the measured CPU-seconds of both."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat one: each must be another student")
        if self.train_problems > self.teacher_problems:
            raise ValueError(
                f"train_problems {self.train_problems} are taken from the teacher's, which are only "
                f"{self.teacher_problems}"
            )
        return self

    def arm_steps(self, arm: Arm) -> int:
        """Optimizer steps of one student."""
        steps = self.student_training.steps
        return math.ceil(steps * self.compute_ratio) if arm == "ce_more" else steps


def teacher_recipe(study: DistillStudy, folder: Path) -> DistillRecipe:
    """The teacher's own training: plain cross-entropy."""
    training = study.teacher_training
    data = (folder.parent / "teacher.jsonl", study.teacher_problems)
    return _recipe(study, folder, training, training.steps, data, folder / "init", seed=0, alpha=0.0)


def student_recipe(study: DistillStudy, folder: Path, arm: Arm, seed: int, start: Path) -> DistillRecipe:
    """One student's run from the checkpoint `start`."""
    alpha = study.alpha if arm == "kd" else 0.0
    steps = study.arm_steps(arm)
    # The distilled student reads the teacher's log-probabilities from a file made once.
    data = (folder.parent / ("cached.jsonl" if arm == "kd" else "train.jsonl"), study.train_problems)
    return _recipe(study, folder, study.student_training, steps, data, start, seed, alpha)


def _recipe(
    study: DistillStudy,
    folder: Path,
    training: Training,
    steps: int,
    data: tuple[Path, int],
    start: Path,
    seed: int,
    alpha: float,
) -> DistillRecipe:
    path, rows = data
    batch = {
        "batch_size": training.batch_size,
        "max_length": study.max_length,
        "overlong": "drop",
        # One forward pass a step. Packed into one row, short sequences would cost more in attention on a CPU
        # than their padding does.
        "micro_batch_tokens": training.batch_size * study.max_length,
        "packing": False,
        "epochs": math.ceil(steps * training.batch_size / rows) + 1,
        "max_steps": steps,
        "seed": seed,
    }
    return DistillRecipe.parse(
        {
            "out": folder,
            "seed": seed,
            "model": {"path": str(start), "dtype": "float32", "gradient_checkpointing": False},
            "batch": batch,
            "optimizer": {"lr": training.lr, "weight_decay": training.weight_decay},
            "parallel": {"engine": "torch"},
            "checkpoint": {"every": 0, "keep_last": 1, "asynchronous": False},
            "logging": {"live": "never"},
            "data": {"path": str(path)},
            "teacher": {"source": "cached"},
            "loss": {"alpha": alpha, "temperature": study.temperature},
        },
        "the study's settings",
    )
