"""Work of many milliseconds, beside the event loop: hostile texts are read, policies look far ahead.

One piece at a time: threads that all want the interpreter would keep the loop from it longer than the work.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from submission.clock import VirtualLoop

T = TypeVar("T")


class Aside:
    """Does work in a thread, one piece after the other. Belongs to one event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def do(self, work: Callable[[], T]) -> T:
        """The work's result; its exception is raised here. A cancelled `await` leaves the work to its end."""
        # No thread ever ends in virtual time, and nobody waits there.
        if isinstance(asyncio.get_running_loop(), VirtualLoop):
            return work()
        async with self._turn:
            return await asyncio.to_thread(work)
