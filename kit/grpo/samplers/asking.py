"""Asks several engines the same at once, from a thread, each with a deadline; names who failed, and why."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from kit.grpo.rollout import SyncError
from kit.grpo.samplers.host import Host
from kit.grpo.samplers.loop import Loop
from submission.engines.base import EngineError

T = TypeVar("T")

GRACE = 2.0
"""Seconds that the others have left once an engine failed: what one dies of, another may just wait for."""


class Asking:
    """The engines of a sampler.

    Args:
        timeout: seconds for an answer.
    """

    def __init__(self, loop: Loop, hosts: Sequence[Host], timeout: float) -> None:
        self.loop, self.hosts, self.timeout = loop, hosts, timeout

    def call(self, method: str, *arguments: Any) -> list[list[Any]]:
        """A method of all workers of all engines; answers by engine, then worker.

        Raises:
            SyncError: naming every engine that failed, the likeliest cause first.
        """
        return self.all(method, lambda host: host.call(method, *arguments))

    def all(self, name: str, question: Callable[[Host], Coroutine[Any, Any, T]]) -> list[T]:
        """Each engine's answer. Raises as `call` does."""
        return self.loop.run(self._all(name, question))

    def begin(self, name: str, question: Callable[[Host], Coroutine[Any, Any, T]]) -> "Future[list[T]]":
        """The same, beside the caller."""
        return self.loop.begin(self._all(name, question))

    async def _all(self, name: str, question: Callable[[Host], Coroutine[Any, Any, T]]) -> list[T]:
        tasks = [asyncio.ensure_future(asyncio.wait_for(question(host), self.timeout)) for host in self.hosts]
        try:
            _, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            if waiting:
                await asyncio.wait(waiting, timeout=GRACE)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        faults: list[tuple[int, str]] = []
        for host, task in zip(self.hosts, tasks, strict=True):
            error = None if task.cancelled() else task.exception()
            if isinstance(error, TimeoutError):
                faults.append((1, f"{host.name}: the engine did not answer {name} within {self.timeout:g} s"))
            elif error is not None:
                reason = str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
                rank = 0 if isinstance(error, EngineError) else 2
                faults.append((rank, f"{host.name}: the weights did not reach the engine: {reason}"))
        if faults:
            raise SyncError("; ".join(text for _, text in sorted(faults)))
        return [task.result() for task in tasks]
