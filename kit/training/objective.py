"""What a training phase adds to the core: the loss of a token, and what is told beside it."""

from typing import Protocol

from kit.training.batches import MicroBatch
from kit.training.head import TokenLoss


class Objective(Protocol):
    """A loss that is a sum over trained tokens."""

    names: tuple[str, ...]
    """Of the quantities that the token loss gives beside itself, in training and in evaluation."""

    def token_loss(self, micro: MicroBatch) -> TokenLoss:
        """The loss for the chunks of one micro-batch's tokens. Collective where a teacher is partitioned."""
