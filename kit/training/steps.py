"""One optimizer step, and one evaluation: what all phases do with rows, whatever their loss."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kit.training.batches import MicroBatch, collate
from kit.training.engines.base import TrainEngine
from kit.training.objective import Objective
from kit.training.packing import plan_step
from kit.training.ranks import Ranks
from kit.training.recipe import MicroSection
from kit.training.rows import TokenRow
from kit.training.sharing import prompts_of, tokens_without_repeats

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StepResult:
    """Of one optimizer step or evaluation, over all ranks.

    Args:
        loss: mean over trained tokens.
        others: means of the objective's other quantities.
        tokens: prompt and completion tokens, however the step was cut; a shared prompt counts once.
        trained: tokens that carry a loss.
        grad_norm: 2-norm before clipping; NaN or inf where the update was skipped; 0 in evaluation.
        told: what the phase tells of the step beside the losses; the same however often it is done again.
        timings: seconds and the like, which are not.
        shown: names of `others` and `told` for the terminal.
    """

    loss: float
    others: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    trained: int = 0
    grad_norm: float = 0.0
    told: Mapping[str, float | int | str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    shown: tuple[str, ...] = ()


def run_step(
    engine: TrainEngine,
    objective: Objective,
    rows: Sequence[TokenRow],
    batch: MicroSection,
    ranks: Ranks,
    lr: float,
    *,
    share: bool = False,
) -> StepResult:
    """Forward, backward and update on the rows of one step, which all ranks know.

    The loss is normalised over all rows together (see `Objective.divisor`), so neither the plan nor the
    number of ranks changes the gradient.

    Args:
        share: put equal prompts of a micro-batch through once; see `micro_batches`.
    """
    trained = sum(int(row.mask.sum()) for row in rows)
    assert trained, "rows without a trained token are dropped at loading"
    divisor = objective.divisor(rows)
    totals = dict.fromkeys(("loss", *objective.names), 0.0)
    for micro in micro_batches(rows, batch, ranks, share=share):
        total, others = engine.module(micro, objective.token_loss(micro))
        engine.backward(total / divisor)
        _add(totals, total, others)
    norm = engine.step(lr)
    lengths = [len(row) for row in rows]
    tokens = tokens_without_repeats(lengths, prompts_of(rows)) if share else sum(lengths)
    return _summed(totals, (divisor, trained, tokens), norm, ranks)


def evaluate(
    engine: TrainEngine, objective: Objective, rows: Sequence[TokenRow], batch: MicroSection, ranks: Ranks
) -> StepResult:
    """Mean loss over the trained tokens of the rows, without gradients."""
    import torch

    trained = sum(int(row.mask.sum()) for row in rows)
    totals = dict.fromkeys(("loss", *objective.names), 0.0)
    engine.module.eval()
    try:
        with torch.no_grad():
            for micro in micro_batches(rows, batch, ranks):
                total, others = engine.module(micro, objective.token_loss(micro))
                _add(totals, total, others)
    finally:
        engine.module.train()
    tokens = sum(len(row) for row in rows)
    return _summed(totals, (objective.divisor(rows), trained, tokens), 0.0, ranks)


def micro_batches(
    rows: Sequence[TokenRow], batch: MicroSection, ranks: Ranks, *, share: bool = False
) -> Iterator[MicroBatch]:
    """This rank's forward passes over the rows, equally many on every rank.

    Args:
        share: put equal prompts of a micro-batch through once (`kit.training.sharing`), and cut the rows so
            that there are many; needs an attention that knows it (`kit.training.attention.can_share`).
    """
    lengths = [len(row) for row in rows]
    prompts = prompts_of(rows) if share else ()
    plan = plan_step(lengths, batch.capacity, ranks.world_size, packing=batch.packing, prompts=prompts)
    for chosen in plan[ranks.rank]:
        micro_rows = [rows[index] for index in chosen]
        yield collate(micro_rows, ranks.device, packing=batch.packing, share=share)


def _add(totals: dict[str, float], loss: "torch.Tensor", others: "dict[str, torch.Tensor]") -> None:
    totals["loss"] += float(loss.detach())
    for name, value in others.items():
        totals[name] += float(value)


def _summed(
    totals: dict[str, float], counts: tuple[float, int, int], norm: float, ranks: Ranks
) -> StepResult:
    """One message for all sums of the step. The loss has a divisor of its own, the others trained tokens."""
    sums = ranks.sums(totals)
    divisor, trained, tokens = counts
    loss = sums.pop("loss") / divisor
    means = {name: value / trained for name, value in sums.items()}
    return StepResult(loss, means, tokens, trained, norm, shown=tuple(means))
