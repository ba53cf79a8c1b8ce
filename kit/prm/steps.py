"""Steps and evaluations of a PRM run: `kit.training.table_steps` with figures of step scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kit.prm.figures import figures
from kit.prm.objective import StepObjective
from kit.prm.rows import StepRow, labelled_steps
from kit.training.engines.base import TrainEngine
from kit.training.order import step_rows
from kit.training.ranks import Ranks
from kit.training.recipe import MicroSection
from kit.training.steps import StepResult, evaluate
from kit.training.table_steps import TableSteps

Scores = list[npt.NDArray[np.float64]]


def score_rows(
    engine: TrainEngine,
    objective: StepObjective,
    rows: Sequence[StepRow],
    batch: MicroSection,
    ranks: Ranks,
) -> tuple[StepResult, Scores]:
    """Loss and log-odds [S] of each row, without gradients. Collective; all ranks know all of it."""
    objective.found = {}
    try:
        result = evaluate(engine, objective, rows, batch, ranks)
        mine = objective.found
    finally:
        objective.found = None
    flat = np.concatenate([mine.get(id(row), np.zeros(len(row.labels))) for row in rows])
    whole = np.array(ranks.sum(flat.tolist()))  # of each row, one rank has more than zeros
    return result, np.split(whole, np.cumsum([len(row.labels) for row in rows])[:-1])


@dataclass(frozen=True)
class PrmSteps(TableSteps):
    """See `kit.training.loop.Steps`.

    Args:
        threshold: a step is called wrong below it.
    """

    threshold: float = 0.5

    def step(self, step: int, lr: float) -> StepResult:
        """One optimizer step on the rows that are its turn; `trained` counts labelled steps."""
        result = super().step(step, lr)
        batch = self.batch
        numbers = step_rows(
            step, self.row_count, batch.batch_size, batch.epochs, batch.seed, shuffle=batch.shuffle
        )
        steps = labelled_steps(self.rows_of(step, numbers))
        # The core's means are over marked tokens, of which a step may have several.
        others = {name: value * result.trained / steps for name, value in result.others.items()}
        return replace(result, others=others, trained=steps, shown=tuple(others))

    def evaluate(self) -> dict[str, float]:
        """Figures of the validation rows; windows of one solution count as one."""
        rows = [row for row in self.validation if isinstance(row, StepRow)]
        assert isinstance(self.objective, StepObjective)
        result, scores = score_rows(self.engine, self.objective, rows, self.batch, self.ranks)
        found = figures(*by_solution(rows, scores), self.threshold)
        # The objective's own loss, with its weights, is what training goes down.
        return {**found, "weighted_loss": result.loss}


def by_solution(rows: Sequence[StepRow], scores: Scores) -> tuple[Scores, Scores]:
    """Log-odds and labels of each solution, whose windows follow each other."""
    x: dict[int, Scores] = {}
    y: dict[int, Scores] = {}
    for row, found in zip(rows, scores, strict=True):
        x.setdefault(row.source, []).append(found)
        y.setdefault(row.source, []).append(row.labels)
    return [np.concatenate(parts) for parts in x.values()], [np.concatenate(parts) for parts in y.values()]
