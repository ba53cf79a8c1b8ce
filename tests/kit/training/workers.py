"""Ranks as processes that start in milliseconds: forked from a server that has torch and transformers loaded.

`launch(function, world_size, ...)` runs `function(*args)` on every rank, with the environment that torchrun
would set. What one rank raises fails the launch; a rank that is killed takes the others with it, as torchrun
does.
"""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.kit.training.preload"])


@dataclass(frozen=True)
class Ended:
    """How the ranks ended: exit codes (negative: a signal), and what they returned or raised."""

    codes: list[int]
    results: list[Any]
    errors: list[str]

    @property
    def result(self) -> Any:
        """Of rank 0, where all ended well."""
        assert self.codes == [0] * len(self.codes), f"{self.codes}: {self.errors}"
        return self.results[0]


def launch(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 480.0) -> Ended:
    """Run `function(*args)` on `world_size` ranks. It must be importable: a function of a test module."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes, pipes = [], []
    for rank in range(world_size):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world_size)}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        mine, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_rank, args=(environment, theirs, function, args))
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(mine)
    _wait(processes, pipes, timeout)
    said = [_last(pipe) for pipe in pipes]
    codes = [process.exitcode if process.exitcode is not None else -signal.SIGKILL for process in processes]
    return Ended(codes, [result for result, _ in said], [error for _, error in said])


def _rank(
    environment: dict[str, str], pipe: Any, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        pipe.send((function(*args), ""))
    except BaseException as error:
        pipe.send((None, f"{type(error).__name__}: {error}"))
        raise


def _wait(processes: list[Any], pipes: list[Any], timeout: float) -> None:
    """Until all have ended; a few seconds after one failed, the others are killed."""
    until = time.monotonic() + timeout
    while any(process.is_alive() for process in processes):
        if any(process.exitcode not in (None, 0) for process in processes):
            until = min(until, time.monotonic() + 5.0)
        if time.monotonic() > until:
            for process in processes:
                process.kill()
        time.sleep(0.02)
    for process in processes:
        process.join()


def _last(pipe: Any) -> tuple[Any, str]:
    said: tuple[Any, str] = (None, "said nothing")
    try:
        while pipe.poll():
            said = pipe.recv()
    except EOFError:
        pass
    return said
