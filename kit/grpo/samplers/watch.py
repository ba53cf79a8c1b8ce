"""Ends an engine's processes with the process that started them, from the very first of them on.

`Watch` starts this file as a script (standard library alone, about 10 MB) before there is an engine. The
script waits for the end of its owner, or for a word from it, and then kills every process that carries the
owner's mark in its environment, until none is left. A mark is inherited by whatever an engine starts, however
deep, so no moment is too early: the owner need not know a process, nor live to tell of it.
"""

import os
import secrets
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path

MARK = "AIMO_GRPO_ENGINE"
"""Environment variable that names whose engine a process belongs to."""
_READY = b"ready\n"
_PAUSE = 0.1
_LONGEST = 30.0
_ROUNDS = 3
"""Looks in a row that must find nothing: a process may be on its way while its parent is killed."""


class Watch:
    """A guard over the processes that are started with `environment`; Linux alone has it (/proc, pidfd)."""

    def __init__(self) -> None:
        mark = secrets.token_hex(16)
        # `setproctitle`, which vLLM uses, overwrites what /proc shows of it unless it is told not to.
        self.environment = {MARK: mark, "SPT_NOENV": "1"}
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), mark]
        self._script = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, start_new_session=True
        )
        assert self._script.stdin is not None and self._script.stdout is not None
        said = self._script.stdout.readline()
        assert said == _READY, f"the watch did not start: {said!r}"
        # multiprocessing keeps one for this whole process: it must not take an engine's mark.
        resource_tracker.ensure_running()

    def close(self) -> None:
        """Kill what is left of the processes, and end; idempotent."""
        if self._script.returncode is None:
            assert self._script.stdin is not None and self._script.stdout is not None
            with suppress(BrokenPipeError):  # somebody killed it
                self._script.stdin.write(b"\n")
                self._script.stdin.flush()
            try:
                self._script.wait(_LONGEST)
            except subprocess.TimeoutExpired:  # somebody stopped it
                self._script.kill()
                self._script.wait()
            for pipe in (self._script.stdin, self._script.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()


def marked(mark: str) -> list[int]:
    """This user's processes that carry the mark."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            # Of another user, or gone meanwhile. What has ended and was not waited for has none.
            with suppress(OSError):
                if entry in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
    return found


def end(mark: str) -> None:
    """Kill all that carry the mark, and wait until they are gone."""
    quiet = 0
    while quiet < _ROUNDS:
        left = marked(mark)
        quiet = 0 if left else quiet + 1
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE)


def main(owner: int, mark: str) -> None:
    """Wait for the owner's end or its word, whichever comes first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # a launcher's signals to all; the owner decides
    # A parent-death signal would come when a mere thread of the owner ends.
    with suppress(ProcessLookupError):
        watched = os.pidfd_open(owner)
        if os.getppid() == owner:  # else it ended before, and the number is another's
            sys.stdout.buffer.write(_READY)
            sys.stdout.flush()
            select.select([watched, 0], [], [])
    end(mark)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
