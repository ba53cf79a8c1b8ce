"""The sandbox as its users see it: sessions that run code, with `await` or without."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from submission.frames import Channel, ClosedError, encode
from submission.sandbox import scratch as folders
from submission.sandbox.installation import PACKAGE_ROOT, library_folders, readable_paths
from submission.sandbox.layers import ALWAYS, LAYERS, Setup
from submission.sandbox.result import Result

if TYPE_CHECKING:
    from submission.settings import SandboxSettings

log = logging.getLogger(__name__)

START_SECONDS = 120.0
"""For a server to import its modules; a second or two on an idle machine."""
_GRACE_SECONDS = 15.0
"""Beyond a call's time: for the server to end it."""
_END_SECONDS = 10.0
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from submission.sandbox.server import main; main(int(sys.argv[2]))"
)
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031


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
        self._server: _Server | None = None
        self._server = self._start()
        self.layers: dict[str, str] = self._server.layers
        """Each layer's name, with the reason why this system does not have it; empty where it does."""
        self.missing_modules: dict[str, str] = self._server.missing_modules
        """Modules of `settings.preload` that could not be imported, and why."""
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

    def _start(self) -> "_Server":
        return _Server(self.settings, self._readable, self._without, self._restart)

    def _restart(self, ended: "_Server") -> None:
        """Replace a server that ended, in the thread that saw it end."""
        with self._lock:
            if self._closed or self._server is not ended:
                return
            self._server = None
        log.warning("the sandbox's server ended%s; a new one is started", ended.why())
        ended.close()
        try:
            server = self._start()
        except RuntimeError as error:
            with self._changed:
                self._broken = str(error)
                self._changed.notify_all()
            return
        with self._changed:
            if not self._closed:
                self._server = server
                self._changed.notify_all()
                return
        server.close()

    def _ready(self) -> "_Server | None":
        """The server, where one is up now."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            if self._broken:
                raise RuntimeError(f"the sandbox does not start any more: {self._broken}")
            return self._server

    def _await_ready(self) -> "_Server":
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

    async def run(self, code: str, timeout: float | None = None) -> Result:
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
            server = self._sandbox._ready() or await asyncio.to_thread(self._sandbox._await_ready)
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
            server = self._sandbox._ready() or self._sandbox._await_ready()
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
_ENDED = Result(error="the sandbox was ended and starts anew; the variables are gone", killed=True)


class _Call:
    def __init__(self, number: int, session: int, seconds: float) -> None:
        self.number = number
        self.session = session
        self.seconds = seconds
        self.future: Future[Result] = Future()


class _Server:
    """One server process; a thread reads its replies."""

    def __init__(
        self, settings: "SandboxSettings", readable: Sequence[Path], without: Sequence[str], on_end: Any
    ) -> None:
        self._on_end = on_end
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._ended = False
        self._fatal = ""
        # Its workers pass through, where each has a user of its own; they can neither list nor write it.
        self._folder = Path(tempfile.mkdtemp(prefix="aimo-sandbox-")).resolve()
        self._folder.chmod(0o711)
        setup = Setup(
            folder=str(self._folder),
            readable=tuple(readable_paths(readable)),
            preload=settings.preload,
            memory_mb=settings.memory_mb,
            disk_mb=settings.disk_mb,
            output_bytes=settings.output_chars,
            without=tuple(without),
        )
        paths = [str(PACKAGE_ROOT), *library_folders(), *(str(Path(path).resolve()) for path in readable)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _BOOT, json.dumps(paths), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=self._folder,
            env=_environment(self._folder),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._sink = self._process.stdin.fileno()
        self._channel = Channel(self._process.stdout.fileno(), self._sink)
        try:
            self._await_ready(setup)
        except BaseException:
            self.close()
            raise
        # Requests are written whole and at once: a pipe of this size takes them while the server forks.
        os.set_blocking(self._sink, True)
        with contextlib.suppress(OSError):
            import fcntl

            fcntl.fcntl(self._sink, _F_SETPIPE_SZ, _PIPE_BYTES)
        self._reader = threading.Thread(target=self._read, name="sandbox", daemon=True)
        self._reader.start()

    def _await_ready(self, setup: Setup) -> None:
        deadline = time.monotonic() + START_SECONDS
        try:
            self._channel.send(asdict(setup), deadline)
            ready = self._channel.receive(deadline)
        except TimeoutError:
            raise RuntimeError(f"the sandbox's server did not start within {START_SECONDS:.0f} s") from None
        except ClosedError:
            raise RuntimeError("the sandbox's server ended at its start") from None
        if "ready" not in ready:
            raise RuntimeError(f"the sandbox's server failed at its start:\n{ready.get('fatal')}")
        self.layers: dict[str, str] = ready["ready"]
        self.missing_modules: dict[str, str] = ready["modules"]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def why(self) -> str:
        """The error that it ended with, if it told one."""
        return f" with:\n{self._fatal}" if self._fatal else ""

    def call(self, session: int, code: str, seconds: float) -> _Call:
        """Send a cell off; its future is always resolved, by `_ENDED` if the server ends."""
        call = _Call(next(self._numbers), session, seconds)
        with self._lock:
            if self._ended:
                call.future.set_result(_ENDED)
                return call
            self._calls[call.number] = call
        self.tell({"do": "run", "session": session, "number": call.number, "code": code, "seconds": seconds})
        return call

    def cancel(self, call: _Call) -> None:
        """End a cell that nobody waits for any more."""
        with self._lock:
            if self._calls.pop(call.number, None) is None:
                return
        self.tell({"do": "cancel", "session": call.session, "number": call.number})

    def tell(self, message: dict[str, Any]) -> None:
        """Write one message; into the void where the server has ended, which its reader sees."""
        data = memoryview(encode(message))
        with self._lock:
            if self._ended:
                return
            with contextlib.suppress(OSError):
                while data:
                    data = data[os.write(self._sink, data) :]

    def kill(self) -> None:
        """End a server that no longer answers, and by that all its workers."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it in peace, by force if need be; removes its folder."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        reader = getattr(self, "_reader", None)
        if reader is not None and reader is not threading.current_thread():
            reader.join()
        with self._lock:
            self._ended = True
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None and not pipe.closed:
                    pipe.close()
        if self._folder.exists():
            folders.remove(self._folder)

    def _read(self) -> None:
        with contextlib.suppress(ClosedError):
            while True:
                message = self._channel.receive()
                if "fatal" in message:
                    self._fatal = message["fatal"]
                    continue
                with self._lock:
                    call = self._calls.pop(message.pop("number"), None)
                if call is not None:
                    _resolve(call, Result(**message))
        with self._lock:
            self._ended = True
            calls, self._calls = self._calls, {}
        for call in calls.values():
            _resolve(call, _ENDED)
        self._on_end(self)


def _resolve(call: _Call, result: Result) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
        call.future.set_result(result)


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of ours but what the interpreter needs to find its libraries."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {
        **kept,
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        # One thread each: a pool of threads does not survive a fork, and the workers share the cores.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
