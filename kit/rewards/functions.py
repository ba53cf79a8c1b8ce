"""Own reward functions by import path, in worker processes that are killed when they overrun.

Whatever a call does - hang, raise, fork, print, exit, kill itself, fill the memory, return nonsense - costs
that sample alone: its reward is missing, with a reason, and counted. Three processes stand behind a worker:
a supervisor (`kit.rewards.supervisor`), a caller that has imported the function, and a fork of it a call.

What can escape: the function runs as the trainer's user, without a container. This guards against accidents
and hostile completions, not against malice: code that means harm can signal or trace the trainer
(`os.kill(-1, 9)` ends everything of that user), write files and use the network. A process outlives its call
only where the call kills the supervisor after it started a program (exec) with another environment; or where
supervisor and trainer are both killed, or one is stopped and the other killed. Memory is limited for each
process, not for all together.
"""

import contextlib
import math
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from kit.grpo.signals import blocked
from kit.rewards.caller import MAX_REWARD
from submission.frames import MAX_REPLY, Channel, ClosedError
from submission.processes import sweep
from submission.worker_pool import WorkerPool, close_pipes

FAILURES = ("timeout", "crash", "error", "invalid", "none")
"""How a call can give no reward: too slow; its process ended; it raised; no finite number; None."""
MARK = "KIT_REWARD_WORKER"
"""Environment variable that names a worker in all of its descendants."""
END = signal.SIGHUP
"""Asks a supervisor to end; it has a session of its own, so nobody but its trainer sends this."""
_TRIES = 3
"""Times that a call is made at most, where it was disturbed from outside."""
_GRACE_SECONDS = 20.0
"""Beyond a call's own limit: for the supervisor to end what the call left."""


class Outcome(NamedTuple):
    """Of one call: a finite reward, or NaN with one of `FAILURES` and a reason to show."""

    value: float
    failure: str = ""
    reason: str = ""


class FunctionPool:
    """One function in a pool of killable workers; a context manager, and safe to share between threads.

    Args:
        path: "package.module:function". It is looked up as in this process, and in the current folder.
        workers: calls at a time.
        timeout: seconds a call.
        start_timeout: seconds for the module's import.
        memory_gb: address space (GiB) that a call may add to what the import holds.

    Raises:
        ValueError: the function cannot be imported or called; found at once, with the first worker.
    """

    def __init__(
        self,
        path: str,
        *,
        workers: int = 2,
        timeout: float = 10.0,
        start_timeout: float = 120.0,
        memory_gb: float = 4.0,
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise ValueError(f"rewards.functions: {path!r} needs Linux: nothing else can hold its processes")
        self.path = path
        self.counts = dict.fromkeys(("calls", *FAILURES), 0)
        self._setup = {
            "function": path,
            "timeout": timeout,
            "start_timeout": start_timeout,
            "memory_gb": memory_gb,
        }
        self._pool = WorkerPool(workers, lambda: _Worker(self._setup), f"the workers of {path!r} are")
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="reward")
        self._pool.take()
        try:
            self._pool.put(self._pool.start())
        except BaseException:
            self.close()
            raise

    def call(self, sample: Mapping[str, Any]) -> Outcome:
        """Call the function with one JSON-able dict.

        Raises:
            RuntimeError: the pool is closed, or a worker that replaces another cannot be started.
        """
        worker = self._pool.take()
        try:
            if worker is None:
                worker = self._restart()
            outcome = worker.call(sample)
            for _ in range(_TRIES - 1):
                if not worker.disturbed or self._pool.closed:
                    break
                # Not the function's doing: a cluster signals all processes of a job before it preempts it.
                if not worker.usable:
                    self._pool.discard(worker)
                    worker = self._restart()
                outcome = worker.call(sample)
        finally:
            usable = worker is not None and worker.usable
            if worker is not None and not usable:
                self._pool.discard(worker)
            self._pool.put(worker if usable else None)
        with self._pool.lock:
            self.counts["calls"] += 1
            if outcome.failure:
                self.counts[outcome.failure] += 1
        return outcome

    def map(self, samples: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """`call` for each, several at a time; outcomes in the order of the samples."""
        return list(self._threads.map(self.call, samples))

    def close(self) -> None:
        """End the workers; calls under way in other threads come back as crashes. Idempotent."""
        self._pool.signal()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _restart(self) -> "_Worker":
        try:
            return self._pool.start()
        except ValueError as error:
            raise RuntimeError(f"a worker that came up before no longer does: {error}") from None


class _Worker:
    """One supervisor and its family; used by one thread at a time, told to end from any."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        root = str(Path(__file__).resolve().parents[2])  # the folder that holds the package
        paths = [root, *(path for path in sys.path if path and path != root), str(Path.cwd())]
        self.usable = True
        self.disturbed = False
        """Whether a launcher's signal came during the last call, which the function may have met; or the
        supervisor, which runs none of the user's code, has ended without being told to."""
        self._setup = setup
        self._token = secrets.token_hex(16)
        own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0", MARK: self._token}
        with blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-B", "-P", "-m", "kit.rewards.supervisor", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                # One thread each: a thread pool does not survive a fork, and the workers share the cores.
                env={"OMP_NUM_THREADS": "1", **os.environ, **own},
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._channel = Channel(self._process.stdout.fileno(), self._process.stdin.fileno(), limit=MAX_REPLY)

    def await_ready(self) -> None:
        """Wait for the import.

        Raises:
            ValueError: it failed.
        """
        module, _, attribute = str(self._setup["function"]).partition(":")
        try:
            self._channel.send(self._setup, time.monotonic() + _GRACE_SECONDS)
            reply = self._channel.receive(
                time.monotonic() + self._setup["start_timeout"] + 2 * _GRACE_SECONDS
            )
        except (TimeoutError, ClosedError):
            reply = {"error": "its process ended or hung"}
        if "ready" not in reply:
            self.usable = False
            raise ValueError(
                f"rewards.functions: {attribute!r} cannot be taken from the module {module!r}: "
                f"{reply.get('error')}; mend the import path or the module"
            )

    def call(self, sample: Mapping[str, Any]) -> Outcome:
        """Hand one sample over and wait for what becomes of it."""
        deadline = time.monotonic() + self._setup["timeout"] + _GRACE_SECONDS
        self.disturbed = False
        try:
            self._channel.send(sample, deadline)
            reply = self._channel.receive(deadline)
        except TimeoutError:  # the supervisor is stopped, or starved
            self.usable = False
            self._process.kill()
            return Outcome(math.nan, "timeout", "its worker no longer answered")
        except ClosedError:
            self.disturbed, self.usable = self.usable, False
            return Outcome(math.nan, "crash", "its worker was ended")
        self.usable = self.usable and reply.get("usable") is True
        self.disturbed = reply.get("disturbed") is True
        value, failure, reason = reply.get("value"), reply.get("failed"), str(reply.get("reason"))
        if isinstance(value, float) and abs(value) <= MAX_REWARD:
            return Outcome(value)
        return Outcome(math.nan, failure if failure in FAILURES else "invalid", reason)

    def signal(self) -> None:
        """Tell the supervisor to end everything; its user then sees its pipe end."""
        self.usable = False
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(END)

    def kill(self) -> None:
        """End all processes, reap the supervisor and close its pipes; only for the thread that uses it."""
        self.signal()
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code != 0:
            sweep(f"{MARK}={self._token}")
        close_pipes(self._process)
