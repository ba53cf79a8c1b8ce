"""The memory that a command and all that it started take together."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

INTERVAL = 0.5
"""Seconds between two looks, after a few quicker ones."""


@dataclass(slots=True)
class Peak:
    """The most that was seen, in bytes: pages that processes share are counted once."""

    memory: int = 0


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Peak]:
    """Look at a process and its descendants twice a second during the block; peaks in between are missed."""
    peak, ended = Peak(), threading.Event()

    def look() -> None:
        pause = INTERVAL / 16
        while not ended.wait(pause):
            peak.memory = max(peak.memory, tree_memory(pid))
            pause = min(2 * pause, INTERVAL)

    watcher = threading.Thread(target=look, name="memory", daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def tree_memory(pid: int) -> int:
    """Bytes of a process and its descendants now, each shared page counted once; 0 where it is gone."""
    import psutil

    total = 0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        # It may end, or belong to another user, between the two calls.
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total
