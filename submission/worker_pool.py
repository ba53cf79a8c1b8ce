"""Places for worker processes that may be killed at any time, shared between threads."""

import contextlib
import queue
import subprocess
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Worker(Protocol):
    """A process; used by one thread at a time, told to end from any."""

    usable: bool
    """Whether it may be asked again."""

    def await_ready(self) -> None:
        """Wait for its start; what it raises reaches whoever asked for a worker."""

    def signal(self) -> None:
        """Tell it to end; its user then sees its pipe end."""

    def kill(self) -> None:
        """End it, reap it and close its pipes; only for the thread that uses it."""


W = TypeVar("W", bound=Worker)


class WorkerPool(Generic[W]):
    """A number of places, each with a worker or still without one.

    Args:
        places: workers at most; further callers of `take` wait for a free place.
        make: starts the process of one.
        name: what the pool is called where it is asked after its end.
    """

    def __init__(self, places: int, make: Callable[[], W], name: str) -> None:
        self.lock = threading.Lock()
        """For what its owner counts, too."""
        self.closed = False
        self.alive: set[W] = set()
        """Workers in use and idle ones."""
        self._make = make
        self._name = name
        self._slots: queue.LifoQueue[W | None] = queue.LifoQueue()
        for _ in range(places):
            self._slots.put(None)

    def take(self) -> W | None:
        """Wait for a place: its worker, or None where one is yet to be started. Each is to be put back."""
        return self._slots.get()

    def put(self, worker: W | None) -> None:
        """Give a place back, with its worker where that is usable."""
        self._slots.put(worker)

    def start(self) -> W:
        """A worker that is ready, for a place that was taken.

        Raises:
            RuntimeError: the pool is closed. Also what the worker's start raises.
        """
        with self.lock:
            self.refuse_if_closed()
            worker = self._make()
            self.alive.add(worker)
        try:
            worker.await_ready()
        except BaseException:
            self.discard(worker)
            raise
        return worker

    def refuse_if_closed(self) -> None:
        """Raise RuntimeError after the end; call it with `lock` held."""
        if self.closed:
            raise RuntimeError(f"{self._name} closed")

    def discard(self, worker: W) -> None:
        """Kill a worker that the calling thread uses."""
        with self.lock:
            self.alive.discard(worker)
        worker.kill()

    def signal(self) -> None:
        """Tell all workers to end; no other is started."""
        with self.lock:
            self.closed = True
            for worker in self.alive:
                worker.signal()

    def close(self) -> None:
        """End all workers. One in use is left to the thread that uses it, to be reaped. Idempotent."""
        self.signal()
        # Closing the pipes of a worker in use would pull a file descriptor away under its thread.
        idles = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle = self._slots.get_nowait()
                idles.append(idle)
        for idle in idles:
            if idle is not None:
                self.discard(idle)
            self._slots.put(None)  # so that a waiting caller wakes up and finds the pool closed


def close_pipes(process: "subprocess.Popen[bytes]") -> None:
    """Close both ends of a talk with a process that has ended."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
