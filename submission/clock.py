"""Time: when this contest began, and an event loop whose time is virtual.

The contest's clock starts when the process (or the notebook above it) starts, not when the model is
ready. `AIMO_STARTED_AT` (seconds since the epoch) hands an earlier start down to a child process.
"""

import asyncio
import os
import selectors
import time
from pathlib import Path

STARTED_AT = "AIMO_STARTED_AT"


def started_at(longest: float = 86_400.0) -> float:
    """Epoch seconds of the contest's start: `AIMO_STARTED_AT` if it is sane, else this process's start.

    Args:
        longest: seconds; a start that is longer ago is not this contest's.
    """
    now = time.time()
    try:
        given = float(os.environ[STARTED_AT])
    except (KeyError, ValueError):
        return _process_start(now)
    # In the future, or too long ago: a stale variable, or a clock that was set meanwhile.
    return given if 0 <= now - given < longest else _process_start(now)


def _process_start(now: float) -> float:
    """Start of this process from /proc (Linux); this moment elsewhere."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - age if 0 <= age < 86_400 else now


class Stopwatch:
    """Seconds since the contest began, immune to wall-clock jumps after it was made."""

    def __init__(self, already: float = 0.0) -> None:
        self._origin = time.monotonic() - max(0.0, already)

    def __call__(self) -> float:
        """Seconds since the contest began."""
        return time.monotonic() - self._origin


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to the next timer instead of waiting for it.

    Everything that takes its time from the loop (`asyncio.sleep`, `loop.time()`, timeouts) runs at once
    and in the exact order that real time would give. For replay, tests and simulations; real I/O in such
    a loop would be starved, so none belongs there.
    """

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self._now = 0.0

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move time on; timers that fall due run in the next turn of the loop."""
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not events:
            if timeout is None:
                # Nothing is scheduled and nothing can arrive: waiting here would be forever.
                raise RuntimeError("virtual time stands still: every task waits for something unscheduled")
            if timeout > 0:
                self._loop.advance(timeout)
        return events
