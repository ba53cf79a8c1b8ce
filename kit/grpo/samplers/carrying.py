"""How weights travel from the trainer's rank 0 to engines: through files here; `broadcast` has the other way.

Files are of at most `SHARD_BYTES`, in a private folder that both sides see, in memory where that has room.
Bytes: each weight is written once and read once by every worker. Memory: two shards (`shard_files`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kit.grpo.samplers.asking import Asking
from kit.grpo.samplers.folder import WeightsFolder, shard_files

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 1_000_000_000


class Carrier(Protocol):
    """A way for weights; used by rank 0 alone."""

    def carry(self, weights: "Iterator[tuple[str, torch.Tensor]]", asking: Asking) -> None:
        """Give every engine all of them, in the engines' type.

        Raises:
            SyncError: an engine failed or did not answer in time.
        """

    def close(self) -> None:
        """Free everything; idempotent."""


class FileCarrier:
    """See `Carrier`.

    Args:
        parent: where the private folder is made; None takes memory if it has the room, else the temporary
            folder. Engines on other machines need a folder that they see too.
        size: bytes of all weights.
    """

    def __init__(self, parent: Path | None, size: int) -> None:
        self._folder = WeightsFolder(parent, min(2 * size, 2 * SHARD_BYTES))

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    def carry(self, weights: "Iterator[tuple[str, torch.Tensor]]", asking: Asking) -> None:
        """See `Carrier`."""
        for path in shard_files(weights, self.path, SHARD_BYTES):
            asking.call("grpo_load", str(path))

    def close(self) -> None:
        """Remove the folder."""
        self._folder.close()


def weights_size(model: Path) -> int:
    """Bytes of a checkpoint's weight files."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors"))
