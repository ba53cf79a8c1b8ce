"""Processes and their descendants on Linux: adopt them, tie them to a parent, find them, end them."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_END_SECONDS = 5.0
_CLEAN_LOOKS = 5


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends, after setsid too (PR_SET_CHILD_SUBREAPER).

    Raises:
        OSError: the kernel cannot.
    """
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends (PR_SET_PDEATHSIG).

    Only for a child that the parent's main thread forked: the signal comes when that *thread* ends.
    """
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def prctl(option: int, value: int) -> None:
    """Raises OSError with the kernel's reason."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def children(parent: int) -> list[int]:
    """Process ids of its children, zombies included. Reads all of /proc: some ms for a hundred processes."""
    return [pid for pid, above in _parents().items() if above == parent]


def _parents() -> dict[int, int]:
    """Every process's parent."""
    found = {}
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                try:
                    fields = Path(entry.path, "stat").read_bytes()
                except OSError:  # gone meanwhile
                    continue
                # The name in brackets may hold anything, brackets and spaces too.
                found[int(entry.name)] = int(fields[fields.rindex(b")") + 2 :].split()[1])
    return found


def kill_children(parent: int) -> None:
    """Kill the children of another process; its business to reap them."""
    for pid in children(parent):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_own_children(spare: Collection[int] = ()) -> bool:
    """Kill and reap the children of this process, and those that it adopts on the way, until none is left.

    Args:
        spare: children to leave alone.

    Returns:
        Whether none is left; False after some seconds of new ones coming up.
    """
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        found = [pid for pid in children(os.getpid()) if pid not in spare]
        if not found:
            return True
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return False


def end_family(find: Callable[[], list[int]] | None = None) -> bool:
    """Stop, then kill and reap, whole trees of processes: ones that fork faster than they can be killed.

    Args:
        find: names the trees' roots anew at each call, children of this process; by default all of them.

    Returns:
        Whether none is left; False after some seconds of new ones coming up.
    """
    find = find or (lambda: children(os.getpid()))
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        roots = find()
        if not roots:
            return True
        stopped: set[int] = set()
        while time.monotonic() < deadline:
            new = _trees(find()) - stopped
            if not new:
                break
            stopped |= new
            _signal_all(new, signal.SIGSTOP)
        _signal_all(stopped, signal.SIGKILL)
        for pid in roots:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return False


def _signal_all(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _trees(roots: list[int]) -> set[int]:
    below: dict[int, list[int]] = {}
    for pid, parent in _parents().items():
        below.setdefault(parent, []).append(pid)
    found: set[int] = set()
    left = list(roots)
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += below.get(pid, [])
    return found


def sweep(mark: str) -> bool:
    """Kill every process that has `mark`, a NAME=VALUE, in the environment it was started with.

    The last resort, after a supervisor that could not clean up: it also finds what was orphaned and moved to
    another session, unless that started a program with another environment.

    Returns:
        Whether none is left.
    """
    deadline = time.monotonic() + _END_SECONDS
    clean = 0
    while time.monotonic() < deadline:
        found = [pid for pid in _processes() if mark.encode() in _environment(pid)]
        # A process that forks and ends after it was listed hides its child from this look, not from the next;
        # one in the middle of an exec has no environment, as long as a loaded machine keeps it waiting there.
        clean = 0 if found else clean + 1
        if clean == _CLEAN_LOOKS:
            return True
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01 * 2**clean)
    return False


def _processes() -> list[int]:
    own = os.getpid()
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit() and int(entry.name) != own]


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, another user's, or a zombie
        return b""
