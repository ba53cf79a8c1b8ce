"""Steps over a fixed set of rows, in epochs: what fine-tuning and distillation are to the loop."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kit.training.engines.base import TrainEngine
from kit.training.objective import Objective
from kit.training.order import step_rows, total_steps
from kit.training.ranks import Ranks
from kit.training.recipe import BatchSection
from kit.training.rows import TokenRow
from kit.training.steps import StepResult, evaluate, run_step

RowsOfStep = Callable[[int, Sequence[int]], Sequence[TokenRow]]
"""(step, row numbers) -> the rows to train on, the same on every rank."""


@dataclass(frozen=True)
class TableSteps:
    """See `kit.training.loop.Steps`.

    Args:
        row_count: rows of the training data.
        rows_of: gives a step's rows (a table lookup, or samples of the student). Collective.
        validation: rows to evaluate on; may be empty.
    """

    engine: TrainEngine
    objective: Objective
    batch: BatchSection
    ranks: Ranks
    row_count: int
    rows_of: RowsOfStep
    validation: Sequence[TokenRow]

    metric: str = "loss"
    lower_is_better: bool = True

    @property
    def total(self) -> int:
        """Optimizer steps of the run."""
        batch = self.batch
        return total_steps(self.row_count, batch.batch_size, batch.epochs, batch.max_steps)

    @property
    def evaluates(self) -> bool:
        """Whether there are validation rows."""
        return bool(self.validation)

    def step(self, step: int, lr: float) -> StepResult:
        """One optimizer step on the rows that are its turn."""
        batch = self.batch
        numbers = step_rows(
            step, self.row_count, batch.batch_size, batch.epochs, batch.seed, shuffle=batch.shuffle
        )
        rows = self.rows_of(step, numbers)
        result = run_step(self.engine, self.objective, rows, batch, self.ranks, lr)
        told: dict[str, float | str] = {
            "epoch": round((step + 1) * batch.batch_size / self.row_count, 6),
            "order": hashlib.sha256(repr(numbers).encode()).hexdigest()[:8],
        }
        return replace(result, told=told)

    def evaluate(self) -> dict[str, float]:
        """Mean losses over the validation rows."""
        result = evaluate(self.engine, self.objective, self.validation, self.batch, self.ranks)
        return {self.metric: result.loss, **result.others}
