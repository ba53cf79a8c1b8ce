"""Two engines on one GPU by turns: a process reward model sleeps while the solver's engine samples, and back.

Each is served by vLLM with nearly all of the GPU's memory; asleep (level 1), its weights lie in the machine's
memory and its cache is dropped. A turn: the solver's engine falls asleep; the PRM wakes, scores and sleeps
again; the solver's engine wakes. What fails costs the PRM and never the solver: the PRM's process is ended,
with all that it holds of the GPU, before the solver's engine wakes or is started anew by whoever watches it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from submission.engines.base import EngineError, SleepingEngine

log = logging.getLogger(__name__)

Step = Literal["engine sleeps", "PRM wakes", "PRM sleeps", "engine wakes"]
BACK: tuple[Step, ...] = ("PRM sleeps", "engine wakes")
KEPT = 4
"""Turns whose seconds are remembered: the longest of them is what the next one is expected to take."""
KILL_SECONDS = 10.0
"""For the PRM's process to be gone."""


@runtime_checkable
class SleepingScorer(Protocol):
    """A `Scorer` that can give the GPU's memory back for a while."""

    async def start(self) -> None:
        """Load; raises EngineError."""

    async def sleep(self) -> None:
        """Give the memory back; raises EngineError."""

    async def wake(self) -> None:
        """Take the memory back; raises EngineError."""

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:
        """The steps' scores of each completion; EngineError where the engine is gone."""

    async def close(self) -> None:
        """Free everything; idempotent, from whatever state."""


@dataclass
class Turn:
    """What came of one turn.

    Args:
        scores: of each completion's steps; None where there are none.
        swap: seconds of falling asleep and waking, so far.
        scoring: seconds in the scorer.
        why: there are no scores, "" where there are.
    """

    scores: list[list[float]] | None = None
    swap: float = 0.0
    scoring: float = 0.0
    why: str = ""


class Turns:
    """Whose turn it is on the GPU. Belongs to one event loop.

    Start: `start` (the PRM, alone on the GPU), then the solver's engine, then `rehearse`.

    Args:
        engine: the solver's, not started yet.
        scorer: the PRM's, not started yet; nobody else may ask or close it before `close`.
        on_fault: told what has failed, and why.
    """

    def __init__(
        self,
        engine: SleepingEngine,
        scorer: SleepingScorer,
        on_fault: Callable[[str, str], None] = lambda _what, _why: None,
    ) -> None:
        self._engine = engine
        self._scorer = scorer
        self._on_fault = on_fault
        self._seconds: dict[Step, deque[float]] = {step: deque(maxlen=KEPT) for step in get_args(Step)}
        self._pace = 0.0
        self._asleep = False
        self._turn: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.dropped = ""
        """Why there is no PRM any more; "" while there is one."""
        engine.share(self.make_room)

    @property
    def cost(self) -> float:
        """Seconds that a turn is expected to take, scoring left out; 0 before the first."""
        return self._expected(get_args(Step))

    @property
    def seconds(self) -> dict[Step, tuple[float, ...]]:
        """What each step took in the last turns."""
        return {step: tuple(found) for step, found in self._seconds.items()}

    def _expected(self, steps: Sequence[Step]) -> float:
        return sum(max(self._seconds[step], default=0.0) for step in steps)

    async def start(self, limit: float) -> None:
        """Load the PRM within `limit` seconds and put it to sleep. Raises EngineError; it is then gone."""
        why = f"did not start within {limit:.0f} s"
        try:
            async with asyncio.timeout(limit):
                await self._scorer.start()
                why = "did not fall asleep in time"
                await self._step(Turn(), "PRM sleeps", self._scorer.sleep)
        # A library that calls sys.exit() must not leave the PRM where the engine is to come.
        except (Exception, SystemExit) as error:
            self.dropped = str(error) or f"the PRM {why}"
            await self._end_scorer()
            raise EngineError(self.dropped) from error
        self._asleep = True

    async def rehearse(self) -> None:
        """One turn without scores: what it costs is known from then on, and whether it can be done at all."""
        if not self.dropped and not self._engine.hindrance():
            turn = Turn()
            await self._take(turn, 0.0, None)
            log.info("engine and PRM change places and back in %.1f s", turn.swap)

    async def score(self, problem: str, completions: Sequence[str], seconds: float) -> Turn:
        """Scores within `seconds`, where that is enough for the whole turn; raises nothing but cancellation.

        No turn is begun while the solver's engine writes; what is asked of it later waits until it is awake.
        A turn that is late, or whose caller is cancelled, goes on to its end.
        """
        turn = Turn(why=self._hindrance(completions, seconds))
        if not turn.why:
            deadline = asyncio.get_running_loop().time() + seconds
            taken = self._take(turn, deadline, (problem, completions))
            self._turn = asyncio.create_task(taken)
            await asyncio.wait({self._turn}, timeout=seconds)
            if turn.scores is None and not turn.why:
                turn.why = "the engines did not change places in time"
        return turn

    async def make_room(self, failed: bool) -> bool:
        """End the PRM before the solver's engine is started anew, unless it sleeps and no start has `failed`.

        Returns:
            whether it was ended.
        """
        if self.dropped:
            await self._end_scorer()
            return False
        if self._asleep and not failed:
            return False
        await self._drop("the solver's engine has to be started anew")
        return True

    async def close(self) -> None:
        """End a turn under way and the PRM; idempotent."""
        self.dropped = self.dropped or "closed"
        if self._turn is not None and not self._turn.done():
            self._turn.cancel()
            await asyncio.wait({self._turn}, timeout=KILL_SECONDS)
        await self._end_scorer()

    def _hindrance(self, completions: Sequence[str], seconds: float) -> str:
        """Why no turn is taken now, "" if one is."""
        if self.dropped:
            return f"no PRM: {self.dropped}"
        if self._turn is not None and not self._turn.done():
            return "the engines are changing places"
        if why := self._engine.hindrance():
            return why
        needed = self.cost + self._pace * sum(map(len, completions))
        return f"{seconds:.1f} s left, {needed:.1f} s needed" if seconds <= needed else ""

    async def _take(self, turn: Turn, deadline: float, question: tuple[str, Sequence[str]] | None) -> None:
        try:
            await self._step(turn, "engine sleeps", self._engine.sleep)
            self._asleep = False
            await self._step(turn, "PRM wakes", self._scorer.wake)
            if question is not None:
                await self._score(turn, deadline, *question)
            await self._step(turn, "PRM sleeps", self._scorer.sleep)
            self._asleep = True
        except asyncio.CancelledError:
            raise
        # A library's sys.exit(), or its native code's panic, must not leave the engine asleep.
        except BaseException as error:
            log.exception("a turn of the PRM failed")
            said = f"{type(error).__name__}: {error}"
            turn.why = turn.why or ("" if turn.scores is not None else said)
            await self._drop(said)
        try:
            await self._step(turn, "engine wakes", self._engine.wake)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # Whoever watches it starts it anew, on a GPU that nobody shares.
            log.exception("the solver's engine did not wake")
            await self._drop(f"{type(error).__name__}: {error}")

    async def _step(self, turn: Turn, step: Step, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await work()
        passed = loop.time() - begun
        turn.swap += passed
        self._seconds[step].append(passed)

    async def _score(self, turn: Turn, deadline: float, problem: str, completions: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout_at(deadline - self._expected(BACK)):
                scores = await self._scorer.score_steps(problem, completions)
            assert len(scores) == len(completions), "a row a candidate"
            turn.scores = scores
        except TimeoutError:
            turn.why = "no time for all PRM scores"
        except EngineError:
            raise
        except Exception as error:
            # A text that cannot be scored costs its problem; the engine is none the worse for it.
            log.exception("no PRM scores")
            turn.why = f"{type(error).__name__}: {error}"
        finally:
            turn.scoring = loop.time() - begun
            self._pace = max(self._pace, turn.scoring / max(1, sum(map(len, completions))))

    async def _drop(self, why: str) -> None:
        """Do without the PRM from now on."""
        if not self.dropped:
            self.dropped = why
            try:
                self._on_fault("PRM dropped", why)
            except Exception:
                log.exception("the fault could not be reported")
        await self._end_scorer()

    async def _end_scorer(self) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(self._close_scorer())
        await asyncio.wait({self._ending}, timeout=KILL_SECONDS)

    async def _close_scorer(self) -> None:
        try:
            await self._scorer.close()
        except Exception:
            log.exception("the PRM did not close cleanly")
