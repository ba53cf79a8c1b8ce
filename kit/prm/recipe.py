"""The recipe of `python -m kit.train prm`. Its defaults are Qwen2.5-Math-7B-Instruct on human step labels."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from kit.training.recipe import (
    AssumptionSection,
    BatchSection,
    EvaluationSection,
    ModelSection,
    OptimizerSection,
    ParallelSection,
    TableRecipe,
)
from submission.prm.heads import Head
from submission.recipes import Recipe


class DataSection(Recipe):
    """Solutions with labelled steps, through `kit.data.readers.read_labelled`."""

    path: str = "runs/steps/steps.jsonl"
    """Local file or folder, or hub name: PRM800K, Math-Shepherd, ProcessBench, PRMBench, or `kit.steps`."""
    more: tuple[str, ...] = ()
    """Further sets, read after the first."""
    split: str = "train"
    validation: str = ""
    """Set to evaluate on; empty holds out `validation_share` of the problems."""
    validation_share: float = Field(default=0.02, ge=0, lt=1)
    limit: int = Field(default=0, ge=0)
    """Take the first so many solutions of each set; 0 takes all."""
    after_error: Literal["mask", "keep", "wrong"] = "mask"
    """Labels of the steps after the first wrong one: none; as the set has them; or all wrong. What comes
    after an error has no truth of its own, and sets disagree on it (Zhang et al. 2025, arXiv 2501.07301)."""
    neutral: Literal["right", "wrong", "mask"] = "right"
    """What a rating of 0 in PRM800K counts as."""
    labels: Literal["hard", "soft", "estimates"] = "hard"
    """Of `kit.steps`: right or wrong; the share of right roll-outs; its posterior mean."""


class HeadSection(Recipe):
    """What the score is read from, and what the exported folder's `prm.json` says."""

    kind: Head = "token_classification"
    """`token_classification` is a linear layer, `process_reward` Qwen2.5-Math-PRM's two layers (Qwen2 only;
    vLLM serves it), `logprob` no new layer: scale * sum of the span's log-probabilities + bias."""
    labels: Literal[1, 2] = 2
    """Of `token_classification`: two with cross-entropy, or one with binary cross-entropy."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Before a classifier's layer, in training."""
    separator: str = "auto"
    """Text after each step. `auto` takes a spare special token of the vocabulary where there is one, else a
    blank line. No token is ever added."""
    span: Literal["step", "prefix"] = "step"
    """Of `logprob`: the tokens that are summed, of that step or of all steps so far."""
    scalar_lr: float = Field(default=0.02, gt=0)
    """Of `logprob`: learning rate of log(scale) and bias, on the schedule of `optimizer.lr`."""
    system_prompt: str = ""
    instruction: str = ""
    """Follows each problem in the prompt."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.span == "prefix" and self.kind != "logprob":
            raise ValueError(f"head.span = 'prefix' goes with the head 'logprob', not {self.kind!r}")
        if self.dropout and self.kind == "logprob":
            raise ValueError("head.dropout is a classifier's: the head 'logprob' has no layer of its own")
        return self


class LossSection(Recipe):
    """Binary cross-entropy, in the mean over the labelled steps of the whole batch."""

    balance: Literal["none", "classes"] = "none"
    """`classes` weighs right and wrong steps so that both count the same over the training data."""


class PrmEvaluationSection(EvaluationSection):
    """Which evaluation is the best, and what becomes of it."""

    metric: Literal["f1", "accuracy", "loss", "ece"] = "f1"
    """`f1` is ProcessBench's: of finding the first wrong step and of passing right solutions."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """A step is called wrong below it."""
    export: Literal["last", "best"] = "best"
    """Which weights are exported; `best` is the best evaluated checkpoint that is kept, if there is one."""
    calibrate: bool = True
    """Fit scale and bias in `prm.json` on the held-out rows at the end (Platt 1999), so that scores are
    probabilities."""


class PrmBatchSection(BatchSection):
    """`overlong = "truncate"` makes several rows of a solution over `max_length`, in windows that score each
    step once, as the scorer does in the contest."""

    max_length: int = Field(default=4096, ge=2)
    batch_size: int = Field(default=128, ge=1)
    epochs: float = Field(default=1.0, gt=0)


class PrmRecipe(TableRecipe):
    """Everything that the training of a process reward model depends on."""

    out: Path = Path("runs/prm")
    model: ModelSection = ModelSection(path="Qwen/Qwen2.5-Math-7B-Instruct")
    batch: PrmBatchSection = PrmBatchSection()
    optimizer: OptimizerSection = OptimizerSection(lr=7e-6)
    parallel: ParallelSection = ParallelSection()
    data: DataSection = DataSection()
    head: HeadSection = HeadSection()
    loss: LossSection = LossSection()
    evaluation: PrmEvaluationSection = PrmEvaluationSection()
    assume: AssumptionSection = AssumptionSection()

    @model_validator(mode="after")
    def _saved_where_evaluated(self) -> Self:
        every, saved = self.evaluation.every, self.checkpoint.every
        if every and self.evaluation.export == "best" and saved and every % saved and saved % every:
            raise ValueError(
                f"evaluation.export = 'best' takes a checkpoint, but evaluation.every={every} and "
                f"checkpoint.every={saved} seldom meet: make one a multiple of the other"
            )
        return self
