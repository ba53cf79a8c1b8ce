"""The processes of a run: who am I, and the few things that all must agree on.

Started by torchrun (or anything that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT), or
alone, as one process. Only tensors travel between ranks, never pickled objects.
"""

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from kit.quiet import quiet_deepspeed

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. With `world_size` 1 every agreement is the value itself."""

    rank: int
    world_size: int
    local_rank: int
    device: "torch.device"

    @property
    def main(self) -> bool:
        """Whether this is the rank that speaks and writes for all."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks, in float64."""
        return self._reduce(values, "SUM")

    def most(self, value: float) -> float:
        """The greatest value of any rank."""
        return self._reduce([value], "MAX")[0]

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over ranks by name; the ranks must give the same names."""
        names = sorted(values)
        return dict(zip(names, self.sum([values[name] for name in names]), strict=True))

    def _reduce(self, values: Sequence[float], operation: str) -> list[float]:
        if self.world_size == 1 or not values:
            return [float(value) for value in values]
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=getattr(dist.ReduceOp, operation))
        result: list[float] = tensor.tolist()
        return result

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.most(0.0)

    def share(self, text: str, source: int = 0) -> str:
        """The text of rank `source`, on all ranks."""
        if self.world_size == 1:
            return text
        import torch
        import torch.distributed as dist

        data = text.encode("utf-8", "replace")
        size = int(self.most(len(data) if self.rank == source else 0))
        tensor = torch.zeros(size, dtype=torch.uint8)
        if self.rank == source and size:
            tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        tensor = tensor.to(self.device)
        if size:
            dist.broadcast(tensor, src=source)
        return bytes(tensor.cpu().tolist()).decode("utf-8")

    def together(self, work: Callable[[], T]) -> T:
        """Do something on every rank; a ValueError of one is raised by all, who would else wait for it.

        Raises:
            ValueError: that of the lowest rank that has one.
        """
        error, result = "", None
        try:
            result = work()
        except ValueError as problem:
            error = str(problem) or repr(problem)
        first = -int(self.most(-float(self.rank if error else self.world_size)))
        if first < self.world_size:
            raise ValueError(self.share(error, first))
        return cast("T", result)


def join(timeout: float) -> Ranks:
    """Join the process group, or form one of a single process.

    Args:
        timeout: seconds after which a collective operation that some rank never joined fails.

    Raises:
        ValueError: the environment names a part of a launch only, or more ranks than the node has devices.
    """
    import torch
    import torch.distributed as dist

    quiet_deepspeed()
    alone = "WORLD_SIZE" not in os.environ
    if alone:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
        os.environ["MASTER_PORT"] = str(_free_port())
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE is set but {', '.join(missing)} is not: start with torchrun, or alone")
    rank, world_size, local_rank = (_number(name) for name in _VARIABLES[:3])
    if rank >= world_size:
        raise ValueError(f"RANK={rank} is not below WORLD_SIZE={world_size}: start with torchrun, or alone")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK {local_rank}, but this node has {torch.cuda.device_count()} GPUs: "
                "start as many processes a node as it has GPUs"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
    if alone:  # so that a later run in this process is alone again
        for name in _VARIABLES:
            del os.environ[name]
    return Ranks(rank, world_size, local_rank, device)


def _number(name: str) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name}={text!r} in the environment is not a number: start with torchrun, or alone")
    return int(text)


def leave() -> None:
    """Leave the process group; idempotent."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def quit_rank(code: object) -> None:
    """End this process at once with a SystemExit's code where it is one of several ranks; else return.

    All is written and closed by then. What is left is the interpreter's teardown, in which torch's threads
    sometimes abort ("terminate called without an active exception"), and that would become the exit code.
    """
    if "WORLD_SIZE" in os.environ and (code is None or isinstance(code, int)):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
