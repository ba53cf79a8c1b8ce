"""An event loop in a thread of its own: the engines' streams go on whatever the trainer does."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

from kit.grpo.signals import block

T = TypeVar("T")


class Loop:
    """Runs coroutines for threads that have no loop. What they start is deaf to a launcher's signals."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._work, name="grpo-sampler", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        block()  # inherited by the threads of `asyncio.to_thread`, and by processes
        self._loop.run_forever()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Let it run beside the caller."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result; it is cancelled where the caller is interrupted."""
        future = self.begin(work)
        try:
            return future.result()
        finally:
            future.cancel()

    def cancel(self) -> None:
        """Cancel all that runs, and wait for its end."""
        self.run(_cancelled())

    def close(self) -> None:
        """End the thread."""
        self.cancel()
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancelled() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
