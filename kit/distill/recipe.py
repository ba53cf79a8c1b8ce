"""The recipe of `python -m kit.train distill`. Its defaults are a 32B student of a 32B reasoning teacher."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from kit.training.recipe import (
    AssumptionSection,
    BatchSection,
    Dtype,
    ModelSection,
    OptimizerSection,
    ParallelSection,
    TableRecipe,
)
from submission.recipes import Recipe


class DataSection(Recipe):
    """Worked answers to train on, through `kit.data`."""

    path: str = "bespokelabs/Bespoke-Stratos-17k"
    """Hub name, local file (jsonl, json, csv, parquet), or a trace file of `kit.traces`."""
    split: str = "train"
    columns: dict[str, str] = Field(default_factory=dict)
    """Field of a record = column of the set, where the set's own names are not known to the reader."""
    validation: str = ""
    """Set to evaluate on; empty holds out `validation_share` of the problems."""
    validation_share: float = Field(default=0.0, ge=0, lt=1)
    limit: int = Field(default=0, ge=0)
    """Take the first so many records; 0 takes all."""
    instruction: str = ""
    """Follows each problem in the prompt; empty where the set's system message or problem says it all."""


class TeacherSection(Recipe):
    """Where the teacher's token distributions come from (used where `alpha` > 0)."""

    source: Literal["online", "cached"] = "online"
    """`cached` reads the top-k log-probabilities beside the traces (`kit.traces --top-k`)."""
    path: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
    dtype: Dtype = "bfloat16"
    partitioned: bool = True
    """Spread an online teacher's weights over the ranks (ZeRO 3); needs parallel.engine = 'deepspeed'."""


class LossSection(Recipe):
    """alpha * KD(T) * T^2 + (1 - alpha) * CE, over completion tokens (Hinton et al. 2015)."""

    alpha: float = Field(default=0.5, ge=0, le=1)
    """Share of the distillation term; 0 is plain fine-tuning and needs no teacher."""
    temperature: float = Field(default=1.0, gt=0)
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    beta: float = Field(default=0.5, gt=0, lt=1)
    """Weight of the teacher in the mixture of the generalised JSD (Agarwal et al. 2024)."""
    on_policy: float = Field(default=0.0, ge=0, le=1)
    """Share of steps whose completions the student samples itself (GKD's lambda, same paper)."""
    on_policy_max_tokens: int = Field(default=1024, ge=1)
    on_policy_temperature: float = Field(default=1.0, gt=0)


class DistillRecipe(TableRecipe):
    """Everything that a distillation run depends on."""

    out: Path = Path("runs/distill")
    model: ModelSection = ModelSection()
    batch: BatchSection = BatchSection()
    optimizer: OptimizerSection = OptimizerSection()
    parallel: ParallelSection = ParallelSection()
    data: DataSection = DataSection()
    teacher: TeacherSection = TeacherSection()
    loss: LossSection = LossSection()
    assume: AssumptionSection = AssumptionSection()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.loss.on_policy and (self.loss.alpha == 0 or self.teacher.source == "cached"):
            raise ValueError("loss.on_policy needs an online teacher and loss.alpha > 0")
        return self
