"""A process that holds a tree of others to its parent's life: when the parent ends, in whatever way, they do.

    python -m submission.warden PARENT CONTROL MEMORY CHANNEL COMMAND...

It starts COMMAND, which gets the descriptor CHANNEL, and then only watches: its own parent, the command's
exit, and the memory of the whole tree. Whatever the command started is adopted and ended with it, a process
that left its session included. Should the warden itself be killed, the kernel kills the command.

CONTROL is a socket to the parent: closing it asks for the end, and the warden tells there how it came.
The standard output of all of them is a log, kept at a bounded length. Uses only the standard library, since
it has to be up before anything that it watches.
"""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from submission.frames import encode
from submission.processes import adopt_orphans, children, die_with, end_family

TICK_SECONDS = 0.1
"""Between two looks at the parent and the command."""
MEMORY_SECONDS = 2.0
"""Between two looks at the memory."""
LOG_BYTES = 64 << 20
"""A longer log is begun anew: what fills a disk costs the contest its answers."""
OOM_SCORE = 500
"""Of 1000, the sandbox's, which the kernel ends first."""
ASKED = "was asked to end"
_OVERFULL = "held more memory than it may"
_KIB = 1024
_HELD = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)


class _EndedError(BaseException):
    """Somebody asked for the end by SIGTERM."""


def _end(*_: object) -> None:
    raise _EndedError


def _give_way(own: int) -> None:
    """In the command: end with the warden, and where memory runs out before the contest's own process, whose
    end nothing survives. What model-written code holds goes first of all.
    """
    with contextlib.suppress(OSError, ValueError):  # no system has to have this file
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(max(OOM_SCORE, int(score.read_text(encoding="ascii")))), encoding="ascii")
    die_with(own)


def held_bytes(root: int) -> int:
    """Memory (bytes) that a process and its descendants hold: anonymous and shared, not mapped files.

    Pages of mapped files, a checkpoint's weights among them, are the kernel's to take back at any time.
    """
    total, left = 0, [root]
    while left:
        pid = left.pop()
        left += _children(pid)
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:  # gone meanwhile
            continue
        found = _HELD.findall(status) or _RESIDENT.findall(status)
        total += sum(map(int, found)) * _KIB
    return total


def _children(parent: int) -> list[int]:
    """As `children`, in a tenth of its time where the kernel keeps the list."""
    try:
        lists = [path.read_text(encoding="ascii") for path in Path(f"/proc/{parent}/task").glob("*/children")]
    except OSError:  # a thread is gone meanwhile
        lists = []
    return [int(pid) for pid in " ".join(lists).split()] if lists else children(parent)


def watch(parent: int, control: socket.socket, limit: int, process: "subprocess.Popen[bytes]") -> str:
    """Wait until the tree has to end; returns why.

    Args:
        parent: process id of this process's parent.
        control: its end is the parent's wish, or its end.
        limit: bytes that the tree may hold, 0 for any number.
        process: the tree's root.
    """
    poller = select.poll()
    poller.register(control, select.POLLIN)
    looked = time.monotonic()
    while True:
        if poller.poll(TICK_SECONDS * 1000):
            return ASKED
        if os.getppid() != parent:
            return "lost its parent"
        code = process.poll()
        if code is not None:
            return f"ended {_spelled(code)}"
        if time.monotonic() - looked < MEMORY_SECONDS:
            continue
        looked = time.monotonic()
        _reap_adopted(process.pid)
        _bound_log()
        held = held_bytes(process.pid) if limit else 0
        if held > limit:
            return f"{_OVERFULL}: {held / 2**30:.2f} GiB of {limit / 2**30:.2f}"


def _spelled(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by signal {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def _reap_adopted(spare: int) -> None:
    """Take note of the dead, but for the command, whose exit code is asked for elsewhere."""
    while True:
        dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if dead is None or dead.si_pid in (0, spare):
            return
        os.waitpid(dead.si_pid, 0)


def _bound_log() -> None:
    with contextlib.suppress(OSError):  # a pipe or a terminal has no length
        if os.fstat(1).st_size > LOG_BYTES:
            os.ftruncate(1, 0)


def main(arguments: Sequence[str]) -> None:
    """Run a command until it or the parent ends, then leave nothing of it."""
    parent, descriptor, limit, channel = map(int, arguments[:4])
    command = arguments[4:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, _end)
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    adopt_orphans()
    own = os.getpid()
    why = ASKED
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(channel,),
            preexec_fn=lambda: _give_way(own),  # noqa: PLW1509  # this process has one thread
        )
        # The command alone holds it: its end is then the end of the stream, at once.
        os.close(channel)
        why = watch(parent, control, limit, process)
    except _EndedError:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        gone = end_family()
        with contextlib.suppress(OSError):
            control.settimeout(1.0)
            control.sendall(encode({"why": why, "overfull": why.startswith(_OVERFULL), "gone": gone}))
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
