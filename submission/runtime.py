"""The contest behind a plain blocking call: an event loop in a thread of its own.

The gateway calls from its own threads and must get an integer whatever happens in here.
"""

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable

from submission.contest import Contest
from submission.daemons import DaemonExecutor

log = logging.getLogger(__name__)

# What one answer may take beyond the contest's own deadlines before it is given up from outside.
GRACE_SECONDS = 20.0
# What a loop that has been seen to hang is given to answer at all; one that only was busy gets the grace.
RESPONSE_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_MOST_ENDS = 1_000
"""Of a loop that is told to end by what runs in it; one that breaks at every turn must not fill the log."""


class Runtime:
    """Runs a contest in a background thread.

    Args:
        make_contest: builds the contest; called inside the loop's thread.
        seconds_left: time left in the contest.
        cap: seconds that a single problem may take. While the model loads, an answer is waited for as long
            as the contest lasts; after that no longer than this, whatever the loop is doing.
            `GRACE_SECONDS` come on top of both.
    """

    def __init__(
        self, make_contest: Callable[[], Contest], seconds_left: Callable[[], float], cap: float
    ) -> None:
        self._seconds_left = seconds_left
        self._cap = cap
        self._calls = 0
        self._hung = False
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._contest: Contest | None = None
        self._open: set[concurrent.futures.Future[int]] = set()
        self._made = threading.Event()
        # A daemon: a hung engine must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, args=(make_contest,), name="contest", daemon=True)
        self._thread.start()

    def _run(self, make_contest: Callable[[], Contest]) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_default_executor(DaemonExecutor())

        async def begin() -> None:
            try:
                self._contest = make_contest()
                self._contest.start()
            except Exception:
                log.exception("the contest could not be set up")
            finally:
                self._made.set()

        # One run, not one until `begin` is done and one after: a stop in between would be spent on the first.
        self._beginning = self._loop.create_task(begin())
        for _ in range(_MOST_ENDS):
            try:
                self._loop.run_forever()
            # A library that calls sys.exit() within a task ends the loop's run: the other tasks go on.
            except BaseException:
                log.exception("the contest's loop was told to end, and goes on")
            if self._closing:
                return

    def answer(self, identifier: str, text: str, default: int) -> int:
        """Answer one problem; returns `default` (or what is known) if everything else fails."""
        self._made.wait(timeout=GRACE_SECONDS)
        contest = self._contest
        if contest is None:
            return default
        self._calls += 1
        if self._calls > 1 and not self._responds():
            log.error("the contest's loop does not respond: problem %s gets what is known", identifier)
            return contest.fallback(identifier, text)
        future = asyncio.run_coroutine_threadsafe(contest.answer(identifier, text), self._loop)
        self._open.add(future)
        try:
            return self._awaited(future, contest)
        except (Exception, SystemExit, concurrent.futures.CancelledError):
            self._hung = not future.done()
            log.exception("problem %s was given up from outside", identifier)
            future.cancel()
            return contest.fallback(identifier, text)
        finally:
            self._open.discard(future)

    def _awaited(self, future: "concurrent.futures.Future[int]", contest: Contest) -> int:
        """The answer, as long as it may take: the contest's time while the model loads, then the cap."""
        capped = False
        deadline = time.monotonic() + max(0.0, self._seconds_left()) + GRACE_SECONDS
        while True:
            if contest.loaded and not capped:
                capped = True
                deadline = min(deadline, time.monotonic() + self._cap + GRACE_SECONDS)
            left = max(0.0, deadline - time.monotonic())
            try:
                return future.result(left if capped else min(left, _LOOK_SECONDS))
            except TimeoutError:
                if future.done() or time.monotonic() >= deadline:
                    raise

    def _responds(self) -> bool:
        """Whether the loop turns at all: one that hangs must not cost the grace of every problem to come."""
        if not self._thread.is_alive():
            return False
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        self._hung = not turned.wait(RESPONSE_SECONDS if self._hung else GRACE_SECONDS)
        return not self._hung

    def close(self, timeout: float = 30.0) -> None:
        """End the contest and its engine; idempotent."""
        if not self._thread.is_alive():
            return
        # The gateway's threads must not sit out an answer that nobody waits for.
        for future in list(self._open):
            future.cancel()
        if self._contest is not None:
            try:
                asyncio.run_coroutine_threadsafe(self._contest.close(), self._loop).result(timeout)
            except (Exception, concurrent.futures.CancelledError):
                log.exception("the contest did not close cleanly")
        self._closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout)
