"""Work beside an event loop in threads of its own: one that hangs holds up nothing else.

A pool has so many threads and no more, and the interpreter waits for each of them at its end: a few calls
into a library that never return, and no engine is started anew, no policy is asked, no process ends.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonExecutor(ThreadPoolExecutor):
    """A daemon thread for each piece of work; a `ThreadPoolExecutor` in name, as event loops ask for one."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin the work at once; in the caller's own thread where the system gives no other."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            # SystemExit too: it is for whoever asked, not for this thread.
            except BaseException as error:  # noqa: BLE001
                future.set_exception(error)
            else:
                future.set_result(result)

        try:
            threading.Thread(target=work, name="beside", daemon=True).start()
        except RuntimeError:
            work()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to wait for: the threads end with their work, or with the process."""
