"""The server's process as the contest's process sees it: started, talked to, ended."""

import contextlib
import fcntl
import itertools
import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submission.frames import Channel, ClosedError, encode
from submission.sandbox import scratch as folders
from submission.sandbox.installation import PACKAGE_ROOT, library_folders, readable_paths
from submission.sandbox.layers import Setup
from submission.sandbox.result import Result

if TYPE_CHECKING:
    from submission.settings import SandboxSettings

log = logging.getLogger(__name__)

START_SECONDS = 120.0
"""For a server to import its modules; a second or two on an idle machine."""
END = signal.SIGHUP
"""Ends a server, as SIGTERM does; but that is blocked where a trainer started it."""
_END_SECONDS = 10.0
_WRITE_SECONDS = 5.0
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from submission.sandbox.server import main; main(int(sys.argv[2]))"
)
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
ENDED = Result(error="the sandbox was ended and starts anew; the variables are gone", killed=True)


class Call:
    """A cell sent off; `future` holds its result in the end."""

    def __init__(self, number: int, session: int, seconds: float) -> None:
        self.number = number
        self.session = session
        self.seconds = seconds
        self.future: Future[Result] = Future()


class ServerProcess:
    """One server process; a thread reads its replies."""

    def __init__(
        self,
        settings: "SandboxSettings",
        readable: Sequence[Path],
        without: Sequence[str],
        on_end: "Callable[[ServerProcess], None]",
    ) -> None:
        self._on_end = on_end
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call] = {}
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
        # Requests are written at once: a pipe of this size takes them while the server forks.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._sink, _F_SETPIPE_SZ, _PIPE_BYTES)
        self._reader = threading.Thread(target=self._read, name="sandbox", daemon=True)

    def listen(self) -> None:
        """Begin to read its replies, and to see its end."""
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

    def call(self, session: int, code: str, seconds: float) -> Call:
        """Send a cell off; its future is always resolved, by `ENDED` if the server ends."""
        call = Call(next(self._numbers), session, seconds)
        with self._lock:
            if self._ended:
                call.future.set_result(ENDED)
                return call
            self._calls[call.number] = call
        self.tell({"do": "run", "session": session, "number": call.number, "code": code, "seconds": seconds})
        return call

    def cancel(self, call: Call) -> None:
        """End a cell that nobody waits for any more."""
        with self._lock:
            if self._calls.pop(call.number, None) is None:
                return
        self.tell({"do": "cancel", "session": call.session, "number": call.number})

    def tell(self, message: dict[str, Any]) -> None:
        """Write one message; into the void where the server has ended, which its reader sees.

        A server that reads nothing for a while is ended: the caller's event loop stands still meanwhile.
        """
        data = memoryview(encode(message))
        # A lock of its own: the reader must go on while this waits for the server to read.
        with self._write_lock:
            if self._ended:
                return
            deadline = time.monotonic() + _WRITE_SECONDS
            poller = select.poll()
            poller.register(self._sink, select.POLLOUT)
            with contextlib.suppress(OSError):
                while data:
                    if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                        self.kill()
                        return
                    with contextlib.suppress(BlockingIOError):
                        data = data[os.write(self._sink, data) :]

    def kill(self) -> None:
        """End a server that no longer answers, and by that all its workers."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it in peace, by force if need be; removes its folder."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(END)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        reader = getattr(self, "_reader", None)
        if reader is not None and reader.is_alive() and reader is not threading.current_thread():
            reader.join()
        with self._lock, self._write_lock:
            self._ended = True
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None and not pipe.closed:
                    pipe.close()
        if self._folder.exists():
            folders.remove(self._folder)

    def _read(self) -> None:
        try:
            while True:
                message = self._channel.receive()
                if "fatal" in message:
                    self._fatal = message["fatal"]
                    continue
                with self._lock:
                    call = self._calls.pop(message.pop("number"), None)
                if call is not None:
                    _resolve(call, Result(**message))
        except ClosedError:
            pass
        except Exception:
            # It says what no server says; without its reader nobody would see its end, so it ends now.
            log.exception("the sandbox's server is not understood")
            self.kill()
        with self._lock:
            self._ended = True
            calls, self._calls = self._calls, {}
        for call in calls.values():
            _resolve(call, ENDED)
        self._on_end(self)


def _resolve(call: Call, result: Result) -> None:
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
