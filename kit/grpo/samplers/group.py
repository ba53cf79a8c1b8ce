"""A process group beside all others, in which the trainer's rank 0 gives weights to the engines' workers.

torch's own process groups, made without the global one: gloo between CPUs, NCCL between GPUs. Nothing in them
is pickled. They are neither authenticated nor encrypted, as everything that a trainer's ranks say to each
other: who may send packets on that network can read weights, or break a transfer (the checksums go the
authenticated way). The meeting place (torch's TCPStore) is open as long as the group is.
"""

import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_NAME = "aimo-grpo"
_POLL = 0.001


class Group:
    """One side of it.

    Args:
        address: host and port of the meeting place.
        rank: 0 is the trainer.
        size: workers, and 1.
        own: address of this side that the others reach it by.
        backend: "gloo" or "nccl".
        seconds: for the others to come, and for every broadcast.
        listening: rank 0's socket at `address`; taken over.

    Raises:
        RuntimeError: somebody did not come.
    """

    def __init__(
        self,
        address: tuple[str, int],
        rank: int,
        size: int,
        own: str,
        *,
        backend: str,
        seconds: float,
        listening: socket.socket | None = None,
    ) -> None:
        from torch.distributed import PrefixStore, TCPStore

        limit = timedelta(seconds=seconds)
        settings: dict[str, Any] = {"timeout": limit, "wait_for_workers": False}
        if listening is not None:
            settings |= {"multi_tenant": True, "master_listen_fd": listening.detach()}
        store = TCPStore(*address, None, rank == 0, **settings)
        self._group = _backend(backend)(PrefixStore(_NAME, store), rank, size, own, limit)

    def send(self, flat: "torch.Tensor", failed: Callable[[], bool]) -> bool:
        """Rank 0: give a tensor to all; False where it failed, or `failed` says that somebody has."""
        work = self._broadcast(flat)
        while not work.is_completed():
            if failed():
                return False
            time.sleep(_POLL)
        try:
            work.wait()
        except RuntimeError:
            return False
        return True

    def receive(self, flat: "torch.Tensor") -> None:
        """Fill a tensor with what rank 0 sends. Raises RuntimeError."""
        self._broadcast(flat).wait()

    def _broadcast(self, flat: "torch.Tensor") -> Any:
        from torch.distributed import BroadcastOptions

        options = BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        return self._group.broadcast([flat], options)


def _backend(name: str) -> Callable[..., Any]:
    def gloo(store: Any, rank: int, size: int, own: str, limit: timedelta) -> Any:
        from torch.distributed import ProcessGroupGloo

        options = ProcessGroupGloo._Options()
        options._timeout = limit
        # By default it asks the name server for this machine's name, which on a cluster is often another
        # network's, or 127.0.0.1.
        options._devices = [ProcessGroupGloo.create_device(hostname=own)]
        return ProcessGroupGloo(store, rank, size, options)

    def nccl(store: Any, rank: int, size: int, own: str, limit: timedelta) -> Any:  # noqa: ARG001 - gloo's
        from torch.distributed import ProcessGroupNCCL

        options = ProcessGroupNCCL.Options()
        options._timeout = limit
        return ProcessGroupNCCL(store, rank, size, options)

    return {"gloo": gloo, "nccl": nccl}[name]


def listen(address: str) -> socket.socket:
    """A socket at a free port of an address of this machine."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.bind((address, 0))
    found.listen()
    return found
