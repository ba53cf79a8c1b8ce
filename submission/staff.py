"""Everything that works on problems: engine, process reward model, sandbox. Started and ended together.

Only the engine is needed: a scorer or sandbox that does not start is noted, and the contest goes on without.
A scorer that is slow to start is not waited for: it joins the contest when it comes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from submission.agents.sandbox_runner import Seats
from submission.engines.base import Engine, SleepingEngine
from submission.prm.scorer import Scorer
from submission.prm.turns import SleepingScorer, Turns
from submission.sandbox import Sandbox
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestSettings
from submission.solving.solver import Solver

log = logging.getLogger(__name__)

TOOL_SECONDS = 10.0
"""A code block's time, where a role names none."""

SCORER_SECONDS = 120.0
"""For the scorer, once the engine stands, before the first problem is begun without it."""
CLOSE_SECONDS = 20.0
"""For a scorer that did not start in time."""

OnFault = Callable[[str, str], None]
"""What failed, and why."""


class Staff:
    """Engine, scorer and sandbox of one contest; belongs to one event loop.

    Args:
        settings: of the contest; the team says whether a sandbox is needed.
        engine, scorer: not started yet.
        rule: how answers are chosen (from a calibration).
        on_fault: told of whatever did not start.
    """

    def __init__(
        self,
        settings: ContestSettings,
        engine: Engine,
        scorer: Scorer | None = None,
        rule: Rule = PLAIN,
        on_fault: OnFault = lambda _what, _why: None,
    ) -> None:
        self._settings = settings
        self.engine = engine
        self._scorer = scorer
        self._scoring = False
        self._joining: asyncio.Task[None] | None = None
        self._rule = rule
        self._on_fault = on_fault
        self._turns: Turns | None = None
        if settings.prm.swap and scorer is not None:
            assert isinstance(engine, SleepingEngine) and isinstance(scorer, SleepingScorer), (
                "as settings say"
            )
            self._turns = Turns(engine, scorer, on_fault)
        self._sandbox: Sandbox | None = None
        self.solver = Solver(engine, settings.solver, settings.rules, team=settings.team)

    async def start(self) -> str:
        """Start everything; returns why there is no engine, "" if there is one."""
        needs_sandbox = self._settings.team.uses_tools
        sandbox = asyncio.create_task(self._start_sandbox()) if needs_sandbox else None
        try:
            if self._turns is not None:
                # Alone on the GPU, and asleep before the engine comes.
                await self._start_scorer(self._turns.start(self._settings.supervision.start_limit))
            await self.engine.start()
        # A library that calls sys.exit() must not take the contest's loop with it.
        except (Exception, SystemExit) as error:
            log.exception("the engine did not start")
            message = f"{type(error).__name__}: {error}"
            self._on_fault("engine did not start", message)
            return message
        finally:
            seats = await sandbox if sandbox is not None else None
        await self._await_scorer()
        self.solver = Solver(
            self.engine,
            self._settings.solver,
            self._settings.rules,
            team=self._settings.team,
            seats=seats,
            scorer=(self._turns or self._scorer) if self._scoring else None,
            rule=self._rule,
        )
        return ""

    async def _start_sandbox(self) -> Seats | None:
        try:
            self._sandbox = await asyncio.to_thread(Sandbox, self._settings.sandbox)
        except (Exception, SystemExit) as error:
            log.exception("the sandbox did not start")
            self._on_fault("sandbox did not start", f"{type(error).__name__}: {error}")
            return None
        return Seats(self._sandbox, TOOL_SECONDS)

    async def _await_scorer(self) -> None:
        """Give the scorer a while. The engine stands: nothing that goes wrong here may cost a problem."""
        if self._turns is not None:
            try:
                await self._turns.rehearse()
                self._scoring = not self._turns.dropped
            except Exception as error:
                log.exception("engine and PRM did not rehearse")
                self._on_fault("PRM did not start", f"{type(error).__name__}: {error}")
        elif self._scorer is not None:
            self._joining = asyncio.create_task(self._join(self._scorer))
            await asyncio.wait({self._joining}, timeout=SCORER_SECONDS)
            if not self._joining.done():
                log.warning("the PRM is still starting: the contest begins without it")

    async def _join(self, scorer: Scorer) -> None:
        """Start the scorer, and have the solver ask it as soon as it can be asked."""
        limit = self._settings.supervision.start_limit
        await self._start_scorer(self._timed(scorer.start(), limit))
        if self._scoring:
            self.solver.scorer = scorer
            return
        # What has come up half-way must not hold memory that the engine could use.
        await self._closed("PRM", self._timed(scorer.close(), CLOSE_SECONDS))

    async def _timed(self, work: Awaitable[None], limit: float) -> None:
        try:
            async with asyncio.timeout(limit) as scope:
                await work
        except TimeoutError:
            if not scope.expired():
                raise
            raise TimeoutError(f"not within {limit:.0f} s") from None

    async def _start_scorer(self, starting: Awaitable[None]) -> None:
        try:
            await starting
            self._scoring = True
        except (Exception, SystemExit) as error:
            log.exception("the PRM did not start")
            self._on_fault("PRM did not start", f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        """End all of it; one that does not end well does not keep the others."""
        if self._joining is not None and not self._joining.done():
            self._joining.cancel()
            await asyncio.wait({self._joining}, timeout=1.0)
        if self._turns is not None:
            await self._closed("PRM", self._turns.close())
        await self._closed("engine", self.engine.close())
        if self._scorer is not None and self._turns is None:
            await self._closed("PRM", self._scorer.close())
        if self._sandbox is not None:
            await self._closed("sandbox", asyncio.to_thread(self._sandbox.close))

    async def _closed(self, what: str, closing: Awaitable[None]) -> None:
        try:
            await closing
        except Exception:
            log.exception("the %s did not close cleanly", what)
