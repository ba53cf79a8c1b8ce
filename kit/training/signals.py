"""A signal asks training to stop at the next step boundary, with a checkpoint, instead of ending it."""

import os
import signal
from types import FrameType
from typing import Any

REQUEUE_EXIT_CODE = 85
"""The run has saved a checkpoint and is not finished: the launcher puts it back in the queue.

85 is ERESTART on Linux, and nothing here exits with it otherwise (1 and 2 are errors, 128 + n is a signal).
"""

_REQUEUE = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class StopRequest:
    """While entered, USR1, USR2, TERM and INT only note that a stop is asked for.

    USR1, USR2 (Slurm's `--signal`) and TERM (preemption) mean stop and requeue, INT (Ctrl-C) means stop. The
    first one counts; more of them do not disturb the save, except that a second INT raises KeyboardInterrupt.
    Enter it on the main thread. Children forked meanwhile die of these signals as usual.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._interrupts = 0
        self._process = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._process = os.getpid()
        for number in (*_REQUEUE, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            # None is a handler that Python did not install and cannot put back.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()

    @property
    def requested(self) -> str | None:
        """Name of the signal that asked first, such as "SIGUSR1"; None while there was none."""
        return None if self._signal is None else self._signal.name

    @property
    def exit_code(self) -> int:
        """What to exit with after the save: 85 to be requeued, 130 after Ctrl-C, 0 without a request."""
        if self._signal is None:
            return 0
        return REQUEUE_EXIT_CODE if self._signal in _REQUEUE else 128 + signal.SIGINT

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker forked from training: not its own to ignore
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self._signal is None:
            self._signal = signal.Signals(number)
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
