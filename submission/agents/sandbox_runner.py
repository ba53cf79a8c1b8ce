"""A sample's code in the sandbox: a session of its own, from its first code to its end."""

import asyncio

from submission.agents.tool_writer import ToolOutput
from submission.sandbox import Sandbox, Session


class Seats:
    """Sessions of a sandbox, for more samples than it has workers: those that come later wait their turn.

    Belongs to one event loop.

    Args:
        timeout: seconds a call.
    """

    def __init__(self, sandbox: Sandbox, timeout: float) -> None:
        self.sandbox = sandbox
        self.timeout = timeout
        self.free = asyncio.Semaphore(sandbox.settings.workers)


class SandboxRunner:
    """See `submission.agents.tool_writer.CodeRunner`; to be closed when the sample is written.

    Args:
        timeout: seconds a call; those of the seats by default.
    """

    def __init__(self, seats: Seats, timeout: float | None = None) -> None:
        self._seats = seats
        self._timeout = timeout or seats.timeout
        self._session: Session | None = None

    async def run(self, code: str) -> ToolOutput:
        """Run a cell; the sample's variables are kept from cell to cell.

        Raises:
            RuntimeError: the sandbox does not start any more.
        """
        if self._session is None:
            await self._seats.free.acquire()
            try:
                self._session = self._seats.sandbox.session()
            except BaseException:
                self._seats.free.release()
                raise
        result = await self._session.run(code, self._timeout)
        return ToolOutput(result.text, failed=bool(result.error))

    def close(self) -> None:
        """Give the session back; idempotent."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
            self._seats.free.release()
