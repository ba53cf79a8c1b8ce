"""Signals that reach every process of a run are for the trainer alone: what it starts has them blocked.

At preemption Slurm signals all that a job has started, at Ctrl-C a terminal its whole group. The trainer
notes it and ends its step (`kit.training.signals`), and for that needs its engines and workers. A process
inherits what the thread that starts it has blocked, through exec as well, and so does a thread; a handler
that the process installs is then never called. To end one takes SIGKILL, or a word in its pipe.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = frozenset((signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT))
"""Those that ask a trainer to save and stop."""


def block() -> None:
    """For good, in the calling thread and all that it starts; the process gets them by its other threads."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def unblock() -> None:
    """The reverse; what came meanwhile comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def blocked() -> Iterator[None]:
    """While entered, for what the calling thread starts. Afterwards exactly those are blocked that were."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def taken() -> bool:
    """Whether one of them, blocked in all threads, has come to this process since the last look."""
    found = False
    while signal.sigtimedwait(SIGNALS, 0) is not None:
        found = True
    return found
