"""A whole contest: budget, journal, engine start-up and the answers already known.

`Contest` is plain asyncio and takes its time from outside, so that it runs alike under the gateway and on
a virtual clock. It never raises out of `answer`, and never answers out of range.
"""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submission.budget import Budget
from submission.engines.base import Engine
from submission.journal import AnswerLine, Journal, read_journal
from submission.scoring import Scorer
from submission.settings import ContestSettings
from submission.solver import Sample, Solution, Solver

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """What an earlier process of this contest left in the journal."""

    answers: dict[str, int]
    elapsed: float


def problem_key(identifier: str, text: str) -> str:
    """Key of a problem across restarts: its id and its statement, since ids alone have been reused."""
    return hashlib.sha256(f"{identifier}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_known(path: Path, low: int, high: int) -> Known:
    """Answers (within `low`..`high`) and seconds spent, from a journal; nothing from a missing one."""
    content = read_journal(path)
    answers = {
        line.key: line.answer
        for line in content.of(AnswerLine)
        # A default answer is no knowledge: the problem deserves its time after a restart.
        if line.key and low <= line.answer <= high and line.source != "default"
    }
    return Known(answers, max((line.elapsed for line in content.lines), default=0.0))


class Contest:
    """Answers problems one after the other until the time is out.

    Args:
        settings: rules, budget, sampling.
        engine: not started yet; `start` does it.
        journal: gets one line a fact.
        elapsed: seconds since the contest began.
        known: what an earlier process had already answered.
        scorer: breaks ties of the vote; a contest whose scorer does not start goes on without it.
    """

    def __init__(
        self,
        settings: ContestSettings,
        engine: Engine,
        journal: Journal,
        elapsed: Callable[[], float],
        known: Known | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._journal = journal
        self._elapsed = elapsed
        self._known = dict(known.answers) if known else {}
        self._loading: asyncio.Task[str] | None = None
        self._answered = 0
        rules, budget = settings.rules, settings.budget
        self._budget = Budget(
            time_limit=rules.time_limit,
            # A profile made for hours must leave something of a contest of minutes.
            reserve=min(budget.reserve, rules.time_limit / 10),
            floor=budget.floor,
            cap=budget.cap,
            expected_problems=rules.expected_problems or None,
        )
        self._scorer = scorer
        self._solver = Solver(engine, settings.solver, rules)

    def start(self) -> None:
        """Begin loading the engine behind whatever else goes on; call inside the running loop."""
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._load())

    async def _load(self) -> str:
        """Start the engine; returns the error, "" if it stands."""
        try:
            await self._engine.start()
        # A library that calls sys.exit() must not take the contest's loop with it.
        except (Exception, SystemExit) as error:
            log.exception("the engine did not start")
            message = f"{type(error).__name__}: {error}"
            self._write("fault", what="engine did not start", error=message)
            return message
        if self._scorer is not None:
            await self._start_scorer(self._scorer)
        self._write("ready")
        return ""

    async def _start_scorer(self, scorer: Scorer) -> None:
        try:
            await scorer.start()
        except (Exception, SystemExit) as error:
            log.exception("the PRM did not start")
            self._write("fault", what="PRM did not start", error=f"{type(error).__name__}: {error}")
        else:
            self._solver = Solver(self._engine, self._settings.solver, self._settings.rules, scorer)

    async def answer(self, identifier: str, text: str) -> int:
        """Answer one problem. Never raises (but for cancellation) and never leaves the contest's range."""
        key = problem_key(identifier, text)
        self._answered += 1
        try:
            if key in self._known:
                self._write("answer", id=identifier, key=key, answer=self._known[key], source="journal")
                return self._known[key]
            return await self._solve(identifier, key, text)
        except Exception as error:
            log.exception("problem %s failed", identifier)
            self._write(
                "fault", what="problem failed", id=identifier, error=f"{type(error).__name__}: {error}"
            )
            return self._settings.rules.default_answer

    async def _solve(self, identifier: str, key: str, text: str) -> int:
        self._write("problem", id=identifier, key=key)
        trouble = await self._ready()
        # Counted after loading: what the start took is everyone's loss, not the first problem's.
        seconds = 0.0 if trouble else self._budget.problem_seconds(self._elapsed(), self._answered - 1)
        self._write("budget", id=identifier, seconds=seconds)
        solution = await self._solver.solve(
            identifier, text, seconds, on_sample=lambda sample: self._note_sample(identifier, sample)
        )
        if solution.source != "default":
            self._known[key] = solution.answer
        if solution.samples and all(sample.finish == "error" for sample in solution.samples):
            error = solution.samples[0].error
            self._write("fault", what="every sample failed", id=identifier, error=error)
        self._note_answer(identifier, key, solution, trouble)
        return solution.answer

    async def _ready(self) -> str:
        """Wait for the engine as long as there is time at all; returns what is wrong, "" if nothing."""
        self.start()
        assert self._loading is not None
        await asyncio.wait({self._loading}, timeout=self._budget.available(self._elapsed()))
        return self._loading.result() if self._loading.done() else "the engine is still loading"

    @property
    def loaded(self) -> bool:
        """Whether loading is over, well or not."""
        return self._loading is not None and self._loading.done()

    def fallback(self, identifier: str, text: str) -> int:
        """What is known of a problem without any work: an earlier answer, else the default."""
        return self._known.get(problem_key(identifier, text), self._settings.rules.default_answer)

    async def close(self) -> None:
        """End loading and the engine. The journal stays open-ended: see `submission.serve.end_journal`."""
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait({self._loading}, timeout=1.0)
        await self._engine.close()
        self._journal.close()

    def _note_sample(self, identifier: str, sample: Sample) -> None:
        self._write(
            "sample",
            id=identifier,
            attempt=sample.attempt,
            answer=sample.answer,
            tokens=sample.tokens,
            seconds=round(sample.seconds, 3),
            finish=sample.finish,
            # A NaN from a broken model must not reach a file that others parse, nor a vote.
            logprob=sample.logprob if math.isfinite(sample.logprob) else None,
            error=sample.error,
            text=sample.text,
        )

    def _note_answer(self, identifier: str, key: str, solution: Solution, trouble: str) -> None:
        self._write(
            "answer",
            id=identifier,
            key=key,
            answer=solution.answer,
            source=solution.source,
            votes=[list(vote) for vote in solution.votes],
            prm=[[answer, round(mean, 4)] for answer, mean in solution.prm_means.items()],
            samples=len(solution.samples),
            tokens=sum(sample.tokens for sample in solution.samples),
            seconds=round(solution.seconds, 3),
            stopped=trouble or solution.stopped,
        )

    def _write(self, kind: str, **facts: Any) -> None:
        line = {"type": kind, "at": round(time.time(), 3), "elapsed": round(self._elapsed(), 3), **facts}
        self._journal.write(line)
