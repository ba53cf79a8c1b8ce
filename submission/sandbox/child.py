"""A worker as the server sees it: started, written to, ended, and what it left removed."""

import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from submission.frames import Parser, encode
from submission.sandbox.layers import PIDS, Setup
from submission.sandbox.namespaces import fork_alone
from submission.sandbox.output import Clip
from submission.sandbox.worker import GO, become_worker

_MAX_READ = 1 << 16


class Child:
    """One worker process and its three pipes; forks on creation.

    Args:
        setup: of the server.
        layers: what `layers.probe` found.
        number: not used before; names its folder.
        slot: not used by another living worker.

    Raises:
        OSError: the system gives no process, pipe or folder.
    """

    def __init__(self, setup: Setup, layers: Mapping[str, str], number: int, slot: int) -> None:
        self.slot = slot
        self.scratch = Path(setup.folder, f"{number:06d}")
        self.scratch.mkdir(mode=0o700)
        self.parser = Parser(limit=16 * setup.output_bytes + 65_536)
        head = setup.output_bytes // 2
        self.printed = Clip(head, setup.output_bytes - head)
        self._outbox = b""
        server = os.getpid()
        request_source, self.requests = os.pipe()
        self.replies, reply_sink = os.pipe()
        self.output, output_sink = os.pipe()
        theirs = (request_source, reply_sink, output_sink)
        try:
            self.pid = fork_alone(alone=not layers[PIDS])
            if self.pid == 0:
                become_worker(setup, layers, self.scratch, server, slot, theirs)
        except OSError:
            for one in (*theirs, *self.pipes):
                os.close(one)
            self.scratch.rmdir()
            raise
        for one in theirs:
            os.close(one)
        for one in self.pipes:
            os.set_blocking(one, False)
        os.write(self.requests, GO)

    @property
    def pipes(self) -> tuple[int, int, int]:
        """Our ends, for as long as they are open."""
        return self.requests, self.replies, self.output

    def ask(self, number: int, code: str, seconds: float) -> None:
        """Have it run a cell; `push` until it says True."""
        self.printed.clear()
        self._outbox = encode({"number": number, "code": code, "seconds": seconds})

    def push(self) -> bool:
        """Write what its pipe takes; whether nothing is left to write. Its death shows at its other pipes."""
        try:
            while self._outbox:
                self._outbox = self._outbox[os.write(self.requests, self._outbox) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            self._outbox = b""
        return True

    def read_output(self, at_most: int = _MAX_READ) -> bool:
        """Take what it printed; whether more may come."""
        try:
            data = os.read(self.output, at_most)
        except BlockingIOError:
            return True
        self.printed.add(data)
        return bool(data)

    def drain_output(self) -> None:
        """Take what it printed before now: no more than a pipe holds, since a thread may print on."""
        for _ in range(16):
            try:
                data = os.read(self.output, _MAX_READ)
            except BlockingIOError:
                return
            if not data:
                return
            self.printed.add(data)

    def read_reply(self) -> bytes:
        """Bytes from its reply pipe; none at its end. BlockingIOError where there is nothing."""
        return os.read(self.replies, _MAX_READ)

    def tasks(self) -> int:
        """Threads that it has now; 0 where it has ended."""
        with contextlib.suppress(OSError):
            return sum(1 for _ in Path(f"/proc/{self.pid}/task").iterdir())
        return 0

    def kill(self) -> None:
        """Send it, and its process group, to its end; `reap` tells when it is there."""
        for pipe in self.pipes:
            os.close(pipe)
        # It is not reaped yet, so that its number is nobody else's.
        os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> str | None:
        """How it ended; None while it has not."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"ended itself with exit code {code}"
        return f"was ended by {signal.Signals(-code).name}"
