"""One optimizer step, and one evaluation: what all phases do with rows, whatever their loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kit.training.batches import collate
from kit.training.engines.base import TrainEngine
from kit.training.objective import Objective
from kit.training.packing import plan_step
from kit.training.ranks import Ranks
from kit.training.recipe import MicroSection
from kit.training.rows import TokenRow

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StepResult:
    """Of one optimizer step or evaluation, over all ranks.

    Args:
        loss: mean over trained tokens.
        others: means of the objective's other quantities.
        tokens: prompt and completion tokens that went through the model.
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
) -> StepResult:
    """Forward, backward and update on the rows of one step, which all ranks know.

    The loss is normalised over all rows together (see `Objective.divisor`), so neither the plan nor the
    number of ranks changes the gradient.
    """
    trained = sum(int(row.mask.sum()) for row in rows)
    assert trained, "rows without a trained token are dropped at loading"
    divisor = objective.divisor(rows)
    totals = dict.fromkeys(("loss", *objective.names), 0.0)
    for plan in _my_plan(rows, batch, ranks):
        micro = collate([rows[index] for index in plan], ranks.device, packing=batch.packing)
        total, others = engine.module(micro, objective.token_loss(micro))
        engine.backward(total / divisor)
        _add(totals, total, others)
    norm = engine.step(lr)
    return _summed(totals, rows, (divisor, trained), norm, ranks)


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
            for plan in _my_plan(rows, batch, ranks):
                micro = collate([rows[index] for index in plan], ranks.device, packing=batch.packing)
                total, others = engine.module(micro, objective.token_loss(micro))
                _add(totals, total, others)
    finally:
        engine.module.train()
    return _summed(totals, rows, (objective.divisor(rows), trained), 0.0, ranks)


def _my_plan(rows: Sequence[TokenRow], batch: MicroSection, ranks: Ranks) -> list[tuple[int, ...]]:
    lengths = [len(row) for row in rows]
    return plan_step(lengths, batch.capacity, ranks.world_size, packing=batch.packing)[ranks.rank]


def _add(totals: dict[str, float], loss: "torch.Tensor", others: "dict[str, torch.Tensor]") -> None:
    totals["loss"] += float(loss.detach())
    for name, value in others.items():
        totals[name] += float(value)


def _summed(
    totals: dict[str, float],
    rows: Sequence[TokenRow],
    divisors: tuple[float, int],
    norm: float,
    ranks: Ranks,
) -> StepResult:
    """One message for all sums of the step. The loss has a divisor of its own, the others trained tokens."""
    sums = ranks.sums(totals)
    divisor, trained = divisors
    loss = sums.pop("loss") / divisor
    means = {name: value / trained for name, value in sums.items()}
    tokens = sum(len(row) for row in rows)
    return StepResult(loss, means, tokens, trained, norm, shown=tuple(means))
