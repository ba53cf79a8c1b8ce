"""What a training phase adds to the core: the loss of a token, and what is told beside it."""

from collections.abc import Sequence
from typing import Protocol

from kit.training.batches import MicroBatch
from kit.training.head import TokenLoss
from kit.training.rows import TokenRow


class Objective(Protocol):
    """A loss that is a sum over trained tokens."""

    names: tuple[str, ...]
    """Of the quantities that the token loss gives beside itself, in training and in evaluation."""

    def token_loss(self, micro: MicroBatch) -> TokenLoss:
        """The loss for the chunks of one micro-batch's tokens. Collective where a teacher is partitioned."""

    def divisor(self, rows: Sequence[TokenRow]) -> float:
        """What the sum over all tokens of a step is divided by: the number of trained tokens, mostly."""


def trained_tokens(rows: Sequence[TokenRow]) -> float:
    """Tokens of the rows that carry a loss: the divisor of a mean over tokens."""
    return float(sum(int(row.mask.sum()) for row in rows))
