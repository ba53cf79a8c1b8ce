"""Weights by broadcast: from the trainer's rank 0 to the workers of all engines at once, wherever they run.

Bytes of a sync: the model in the engines' type once into the group, whose backend spreads it: in all S bytes
a worker, of which rank 0 sends S to ceil(log2(workers + 1)) others with gloo (a tree), and S with NCCL (a
ring). Memory: one bucket of `BUCKET_BYTES`, or one tensor where that is larger, on every side, on the device
that the group works on. Time: the slowest link's S bytes, one message an engine and a bucket.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from kit.grpo.rollout import SyncError
from kit.grpo.samplers.asking import Asking
from kit.grpo.samplers.group import Group, listen

if TYPE_CHECKING:
    import torch

BUCKET_BYTES = 256_000_000


class Member(Protocol):
    """An engine as a part of the group."""

    workers: Sequence[dict[str, Any]]
    """What each says of itself (`SyncedWorker.grpo_describe`)."""
    here: str
    """The trainer's address, as the engine reaches it."""
    there: str
    """The engine's address, as the trainer reaches it."""

    async def call(self, method: str, *arguments: Any) -> list[Any]:
        """A method of all workers."""


class BroadcastCarrier:
    """See `kit.grpo.samplers.carrying.Carrier`. The group is formed at the first sync, and after a fault.

    Args:
        members: the engines, in the order of `Asking.hosts`.
        device: where the trainer's weights are: "cpu" or "cuda".
    """

    def __init__(self, members: Sequence[Member], device: "torch.device") -> None:
        self._members = members
        kinds = {worker["device"] for member in members for worker in member.workers}
        self._on_gpus = device.type == "cuda" and kinds == {"cuda"}
        self._device = device
        self._group: Group | None = None

    def carry(self, weights: "Iterator[tuple[str, torch.Tensor]]", asking: Asking) -> None:
        """See `Carrier`."""
        # Who does not answer now would be waited for by all, and not be told from them.
        asking.call("grpo_describe")
        group, self._group = self._group or self._formed(asking), None
        for names, shapes, flat in buckets(weights, BUCKET_BYTES):
            here = flat.to(self._device) if self._on_gpus else flat.cpu()
            told = asking.begin("grpo_receive", lambda host: host.call("grpo_receive", names, shapes))  # noqa: B023 - begun at once

            def failed(told: "Future[Any]" = told) -> bool:
                # Engines that have it all may say so before this side sees that it sent all.
                return told.done() and told.exception() is not None

            sent = group.send(here, failed)
            told.result()
            if not sent:
                raise SyncError("rank 0: the broadcast of the weights failed, and no engine says why")
        self._group = group

    def close(self) -> None:
        """Leave the group."""
        self._group = None

    def _formed(self, asking: Asking) -> Group:
        size = 1 + sum(len(member.workers) for member in self._members)
        first, places = 1, {}
        for member, host in zip(self._members, asking.hosts, strict=True):
            places[host.name] = (member, first)
            first += len(member.workers)
        backend = "nccl" if self._on_gpus else "gloo"
        # Engines may see the trainer under several addresses: it listens at one that any may be told of.
        anywhere = len({member.here for member in self._members}) > 1
        own = self._members[0].here
        listening = listen(("::" if ":" in own else "0.0.0.0") if anywhere else own)  # noqa: S104 - while a group forms
        port = listening.getsockname()[1]

        def join(host: Any) -> Any:
            member, rank = places[host.name]
            return member.call(
                "grpo_join", member.here, port, rank, size, member.there, backend, asking.timeout
            )

        told = asking.begin("grpo_join", join)
        try:
            group = Group(
                (own, port), 0, size, own, backend=backend, seconds=asking.timeout, listening=listening
            )
        except RuntimeError as error:
            told.result()
            raise SyncError(f"rank 0: the group of trainer and engines did not form: {error}") from error
        told.result()
        return group


def buckets(
    weights: "Iterator[tuple[str, torch.Tensor]]", limit: int
) -> "Iterator[tuple[list[str], list[list[int]], torch.Tensor]]":
    """Names, shapes and the elements in one row, of at most `limit` bytes or one tensor."""
    import torch

    held: dict[str, torch.Tensor] = {}
    size = 0

    def packed() -> "tuple[list[str], list[list[int]], torch.Tensor]":
        shapes = [list(tensor.shape) for tensor in held.values()]
        flat = torch.cat([tensor.reshape(-1) for tensor in held.values()])
        return list(held), shapes, flat

    for name, tensor in weights:
        if held and size + tensor.nbytes > limit:
            yield packed()
            held.clear()
            size = 0
        # What is held may be gathered anew, or changed, before it is sent.
        held[name] = tensor.clone()
        size += tensor.nbytes
    if held:
        yield packed()


def unpacked(
    names: Sequence[str], shapes: Sequence[Sequence[int]], flat: "torch.Tensor"
) -> "Iterator[tuple[str, torch.Tensor]]":
    """The weights of a bucket, as views of it."""
    import math

    import torch

    start = 0
    for name, shape in zip(names, shapes, strict=True):
        end = start + math.prod(shape)
        yield name, flat[start:end].view(torch.Size(shape))
        start = end
