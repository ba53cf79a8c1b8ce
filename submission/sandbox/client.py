"""The sandbox as its users see it: sessions that run code, with `await` or without."""

import asyncio
import contextlib
import itertools
import logging
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from submission.sandbox.layers import ALWAYS, LAYERS
from submission.sandbox.process import START_SECONDS, ServerProcess
from submission.sandbox.result import Result

if TYPE_CHECKING:
    from submission.settings import SandboxSettings

log = logging.getLogger(__name__)

_PAUSES = (1.0, 5.0)
"""Seconds before a server that does not start is tried once more."""
_GRACE_SECONDS = 15.0
"""Beyond a call's time: for the server to end it."""


class Sandbox:
    """Confined Python for several agents; a context manager, safe to share between threads and event loops.

    Starting it takes a second or two (its server imports sympy and numpy): do so off the event loop.

    Args:
        settings: how many workers, and their limits; by default those of `SandboxSettings`.
        readable: folders of further libraries, for cells to import from.
        without: layers to leave out though the system has them; see `submission.sandbox.layers`.

    Raises:
        ValueError: this is no Linux, or a layer to leave out is none.
        RuntimeError: no server comes up.
    """

    def __init__(
        self,
        settings: "SandboxSettings | None" = None,
        *,
        readable: Sequence[Path] = (),
        without: Sequence[str] = (),
    ) -> None:
        if settings is None:
            from submission.settings import SandboxSettings

            settings = SandboxSettings()
        if not sys.platform.startswith("linux"):
            raise ValueError("the sandbox needs Linux: nothing else can hold its processes")
        if wrong := set(without) - (set(LAYERS) - ALWAYS):
            raise ValueError(
                f"no layer of the sandbox to leave out: {', '.join(sorted(wrong))}; there are "
                f"{', '.join(name for name in LAYERS if name not in ALWAYS)}"
            )
        self.settings = settings
        self._readable = tuple(readable)
        self._without = tuple(without)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._numbers = itertools.count(1)
        self._sessions: set[int] = set()
        self._closed = False
        self._broken = ""
        self._server: ServerProcess | None = None
        server = self._start()
        self.layers: dict[str, str] = server.layers
        """Each layer's name, with the reason why this system does not have it; empty where it does."""
        self.missing_modules: dict[str, str] = server.missing_modules
        """Modules of `settings.preload` that could not be imported, and why."""
        self._adopt(server)
        for name, reason in self.layers.items():
            if reason:
                log.warning("the sandbox runs without the layer %r: %s", name, reason)
        for name, reason in self.missing_modules.items():
            log.warning("model-written code cannot import %s: %s", name, reason)

    def session(self) -> "Session":
        """A new agent's state.

        Raises:
            RuntimeError: the sandbox is closed, or as many sessions as it has workers are open.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            if len(self._sessions) >= self.settings.workers:
                raise RuntimeError(
                    f"all {self.settings.workers} workers of the sandbox have a session: close one, or raise "
                    "sandbox.workers"
                )
            number = next(self._numbers)
            self._sessions.add(number)
            server = self._server
        if server is not None:  # so that its worker is there before its first cell
            server.tell({"do": "reset", "session": number})
        return Session(self, number)

    def close(self) -> None:
        """End all processes and remove all folders; calls under way come back as killed. Idempotent."""
        with self._changed:
            self._closed = True
            server, self._server = self._server, None
            self._changed.notify_all()
        if server is not None:
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> "ServerProcess":
        return ServerProcess(self.settings, self._readable, self._without, self._restart)

    def _restart(self, ended: "ServerProcess") -> None:
        """Replace a server that ended, in the thread that saw it end."""
        with self._lock:
            if self._closed or self._server is not ended:
                return
            self._server = None
        log.warning("the sandbox's server ended%s; a new one is started", ended.why())
        try:
            ended.close()
        except Exception:
            log.exception("what the sandbox's server left could not be cleared away")
        server = self._started_anew()
        if server is not None and not self._adopt(server):
            server.close()

    def _started_anew(self) -> "ServerProcess | None":
        """A new server; what hinders it for a moment (memory, descriptors, a full disk) is waited out."""
        for pause in (*_PAUSES, None):
            try:
                return self._start()
            # Whatever it is: calls must not wait for a server that nobody starts.
            except Exception as error:
                log.exception("the sandbox's server does not start")
                broken = f"{type(error).__name__}: {error}"
            if pause is not None:
                time.sleep(pause)
            if self._closed:
                break
        with self._changed:
            self._broken = broken
            self._changed.notify_all()
        return None

    def _adopt(self, server: "ServerProcess") -> bool:
        with self._changed:
            if self._closed:
                return False
            self._server = server
            self._changed.notify_all()
        server.listen()
        return True

    def _ready(self) -> "ServerProcess | None":
        """The server, where one is up now."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            if self._broken:
                raise RuntimeError(f"the sandbox does not start any more: {self._broken}")
            return self._server

    def _await_ready(self) -> "ServerProcess":
        with self._changed:
            self._changed.wait_for(lambda: self._server or self._closed or self._broken, START_SECONDS)
        server = self._ready()
        if server is None:
            raise RuntimeError(f"the sandbox did not start anew within {START_SECONDS:.0f} s")
        return server

    def _forget(self, number: int) -> None:
        with self._lock:
            self._sessions.discard(number)
            server = self._server
        if server is not None:
            server.tell({"do": "close", "session": number})


class Session:
    """One agent's variables, in a process of its own; made by `Sandbox.session`, for one call at a time."""

    def __init__(self, sandbox: Sandbox, number: int) -> None:
        self._sandbox = sandbox
        self._number = number
        self._busy = threading.Lock()

    async def run(self, code: str, timeout: float | None = None) -> Result:  # noqa: ASYNC109  # the cell's
        """Run a cell; never raises for what the code does.

        A cancelled `await` ends the cell and clears the session.

        Args:
            code: Python, of at most `settings.code_chars` characters.
            timeout: seconds; by default `settings.timeout`.

        Raises:
            RuntimeError: the sandbox is closed or does not start any more, or the session runs a cell.
        """
        with self._one_at_a_time():
            if refused := self._refused(code):
                return refused
            server = self._sandbox._ready()
            if server is None:
                server = await asyncio.to_thread(self._sandbox._await_ready)
            call = server.call(self._number, code, self._seconds(timeout))
            try:
                waiting = asyncio.wrap_future(call.future)
                return await asyncio.wait_for(waiting, call.seconds + _GRACE_SECONDS)
            except TimeoutError:
                server.kill()
                return _UNANSWERED
            except BaseException:  # cancelled
                server.cancel(call)
                raise

    def run_sync(self, code: str, timeout: float | None = None) -> Result:
        """`run`, for a thread of its own."""
        with self._one_at_a_time():
            if refused := self._refused(code):
                return refused
            server = self._sandbox._ready()
            if server is None:
                server = self._sandbox._await_ready()
            call = server.call(self._number, code, self._seconds(timeout))
            try:
                return call.future.result(call.seconds + _GRACE_SECONDS)
            except FutureTimeoutError:
                server.kill()
                return _UNANSWERED
            except BaseException:  # interrupted
                server.cancel(call)
                raise

    def reset(self) -> None:
        """Clear all variables and files: between two problems. Returns at once."""
        server = self._sandbox._ready()
        if server is not None:
            server.tell({"do": "reset", "session": self._number})

    def close(self) -> None:
        """End its process and remove its folder. Returns at once; idempotent."""
        self._sandbox._forget(self._number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Any:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("the session runs a cell already: a session is for one call at a time")
        try:
            yield
        finally:
            self._busy.release()

    def _refused(self, code: str) -> Result | None:
        most = self._sandbox.settings.code_chars
        if len(code) > most:
            return Result(error=f"the code has {len(code)} characters, more than {most}; it was not run")
        return None

    def _seconds(self, timeout: float | None) -> float:
        seconds = self._sandbox.settings.timeout if timeout is None else timeout
        if not 0 <= seconds <= 86_400:
            raise ValueError(f"timeout={timeout} of a sandbox's call must lie within 0 and 86400 seconds")
        return seconds


_UNANSWERED = Result(
    error="the sandbox did not answer and is started anew; the variables are gone",
    timed_out=True,
    killed=True,
)
