"""Symbolic equality of two answers, in worker processes that are killed when they overrun.

Computer algebra on a model's text may run for ever or fill the memory (9^{9^9} is seven characters), and
neither a thread nor a signal handler ends it. So each comparison runs in a child process
(`submission.parsing.symbolic_worker`) that speaks JSON lines over pipes: no pickle, no signals, callable
from any thread.

PR_SET_PDEATHSIG is left out: it fires when the *thread* that started the child ends, and any thread may start
one. A child whose parent dies reads the end of its input, or hits its CPU limit first.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from submission.worker_pool import WorkerPool, close_pipes

MAX_CHARS = 1_000
"""Longer texts are never equal. Two of them also fit a pipe's buffer whole, so that writing cannot block."""
START_SECONDS = 120.0
"""For a worker to import its libraries; seconds on an idle machine."""
_END_SECONDS = 5.0
_MAX_REPLY = 65_536
_WORKER_MODULE = "submission.parsing.symbolic_worker"


class SymbolicChecker:
    """A pool of killable workers; a context manager, and safe to share between threads.

    Args:
        workers: processes at most; they start when first needed. Further callers wait for a free one.
        timeout: seconds a comparison, the start of a process not counted.
    """

    def __init__(self, workers: int = 1, timeout: float = 5.0) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers} of the symbolic checker must be at least 1")
        if not 0 < timeout <= 3600:
            raise ValueError(f"timeout={timeout} of the symbolic checker must lie within 0 and 3600 seconds")
        self.timeout = timeout
        self.comparisons = 0
        """Comparisons asked of a worker."""
        self.timeouts = 0
        """Comparisons that were cut off; each counts as not equal."""
        self.crashes = 0
        """Workers that died during a comparison; each counts as not equal."""
        self._pool = WorkerPool(workers, lambda: _Worker(self.timeout), "the symbolic checker is")

    def equal(self, prediction: str, gold: str) -> bool:
        """Whether two answers in canonical LaTeX mean the same; False where that takes too long or crashes.

        Raises:
            RuntimeError: the checker is closed, or no worker can be started (math-verify is missing).
        """
        if max(len(prediction), len(gold)) > MAX_CHARS:
            return False
        worker = self._pool.take()
        try:
            if worker is None:
                worker = self._pool.start()
            try:
                return self._ask(worker, prediction, gold)
            except _WorkerTerminatedError:
                # Not the comparison's doing: a cluster signals all processes of a job before it preempts it.
                worker = self._pool.start()
                return self._ask(worker, prediction, gold, again=True)
        finally:
            self._pool.put(worker if worker is not None and worker.usable else None)

    def close(self) -> None:
        """Kill the workers. Comparisons under way in other threads return False; later ones raise."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, worker: "_Worker", prediction: str, gold: str, *, again: bool = False) -> bool:
        with self._pool.lock:
            self._pool.refuse_if_closed()
            self.comparisons += 1
        try:
            return worker.equal(prediction, gold)
        except TimeoutError:
            with self._pool.lock:
                self.timeouts += 1
        except _WorkerDiedError:
            if not again and worker.was_terminated():
                self._pool.discard(worker)
                raise _WorkerTerminatedError from None
            with self._pool.lock:
                self.crashes += not self._pool.closed
        except BaseException:
            self._pool.discard(worker)
            raise
        self._pool.discard(worker)
        return False


class _WorkerDiedError(Exception):
    """The worker's end of the pipe is closed, or what came out of it is no reply."""


class _WorkerTerminatedError(Exception):
    """Somebody else asked the worker to end."""


class _Worker:
    """One child process; used by one thread at a time, killed from any."""

    def __init__(self, timeout: float) -> None:
        root = str(Path(__file__).resolve().parents[2])  # the folder that holds the package
        paths = [root, *(path for path in sys.path if path and path != root)]
        self.timeout = timeout
        self.usable = True
        self._pending = b""
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-m", _WORKER_MODULE, str(timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )

    def await_ready(self) -> None:
        try:
            reply = self._reply(START_SECONDS)
        except TimeoutError:
            raise RuntimeError(f"no symbolic worker came up within {START_SECONDS:.0f} s") from None
        except _WorkerDiedError:
            raise RuntimeError(
                f"the symbolic worker ended at its start with exit code {self._process.wait()}; try "
                f"`{sys.executable} -m {_WORKER_MODULE} 5`"
            ) from None
        if "error" in reply:
            raise RuntimeError(f"the symbolic worker cannot start: {reply['error']}")

    def equal(self, prediction: str, gold: str) -> bool:
        assert self._process.stdin is not None
        request = json.dumps({"prediction": prediction, "gold": gold}).encode("ascii") + b"\n"
        try:
            self._process.stdin.write(request)
        except (OSError, ValueError):  # ValueError: closed by kill() in another thread
            raise _WorkerDiedError from None
        return self._reply(self.timeout).get("equal") is True

    def was_terminated(self) -> bool:
        """Whether a worker whose pipe has closed was ended by SIGTERM, which is never sent here."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.usable and self._process.wait(_END_SECONDS) == -signal.SIGTERM
        return False

    def signal(self) -> None:
        """End the process and everything in its group; its user then sees its pipe end."""
        self.usable = False
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process, reap it and close its pipes; only for the thread that uses it."""
        self.signal()
        self._process.wait()
        close_pipes(self._process)

    def _reply(self, seconds: float) -> dict[str, object]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                if not _readable(self._process.stdout.fileno(), left):
                    continue
                chunk = os.read(self._process.stdout.fileno(), _MAX_REPLY)
            except (OSError, ValueError):
                raise _WorkerDiedError from None
            if not chunk or len(self._pending) > _MAX_REPLY:
                raise _WorkerDiedError
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            reply = json.loads(line)
        except ValueError:
            raise _WorkerDiedError from None
        if not isinstance(reply, dict):
            raise _WorkerDiedError
        return reply


def _readable(descriptor: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN | select.POLLHUP)
    return bool(poller.poll(max(1, int(seconds * 1000))))
