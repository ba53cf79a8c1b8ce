"""Step labels as an objective of the training core, with what evaluation wants to know of each step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kit.losses.step_labels import ClassWeights, step_loss
from kit.prm.rows import StepRow, labelled_steps
from kit.training.batches import MicroBatch
from kit.training.head import TokenLoss
from kit.training.rows import TokenRow

if TYPE_CHECKING:
    import torch


class StepObjective:
    """See `kit.training.objective.Objective`; the rows are `StepRow`s, and the loss is given log-odds.

    Args:
        weights: of right and wrong steps.
    """

    names: tuple[str, ...] = ("accuracy",)

    def __init__(self, weights: ClassWeights | None = None) -> None:
        self._weights = weights or ClassWeights()
        self.found: dict[int, npt.NDArray[np.float64]] | None = None
        """Where it is a dictionary, gets the log-odds [S] of each row by the row's `id()`."""

    def divisor(self, rows: Sequence[TokenRow]) -> float:
        """The mean over labelled steps, whatever rows and micro-batches they are in."""
        return float(labelled_steps(rows))

    def token_loss(self, micro: MicroBatch) -> TokenLoss:
        """The loss of the micro-batch's steps, from their log-odds [S] in one part."""
        import torch

        rows = [row for row in micro.rows if isinstance(row, StepRow)]  # not a rank's filler
        values = np.concatenate([row.labels for row in rows]) if rows else np.zeros(0)
        labels = torch.from_numpy(values).to(micro.input_ids.device)
        known = torch.isfinite(labels)

        def loss(log_odds: "torch.Tensor", _: slice) -> tuple["torch.Tensor", dict[str, "torch.Tensor"]]:
            assert len(log_odds) == len(labels), "one score a step"
            self._note(rows, log_odds)
            x, y = log_odds[known], labels[known]
            right = ((x.detach() >= 0) == (y >= 0.5)).to(torch.float64)
            return step_loss(x, y, self._weights), {"accuracy": right}

        return loss

    def _note(self, rows: Sequence[StepRow], log_odds: Any) -> None:
        if self.found is None:
            return
        values = log_odds.detach().double().cpu().numpy()
        at = 0
        for row in rows:
            self.found[id(row)] = values[at : at + len(row.labels)]
            at += len(row.labels)
