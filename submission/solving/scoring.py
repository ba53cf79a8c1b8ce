"""Step scores while samples still come: what has finished is scored in batches, off the event loop."""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Protocol

from submission.solving.sample import Sample

log = logging.getLogger(__name__)


class StepScorer(Protocol):
    """What is needed of a process reward model; see `submission.prm.scorer.Scorer`."""

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:
        """The steps' scores of each completion."""


class Scoring:
    """The scores of one problem's samples.

    Nothing is scored while all answers agree: there is nothing to decide. From the second answer on, every
    sample with an answer is, as it finishes; those that finish during a batch make up the next. A scorer that
    fails is not asked again for this problem.
    """

    def __init__(self, scorer: StepScorer, problem: str) -> None:
        self._scorer = scorer
        self._problem = problem
        self._waiting: list[Sample] = []
        self._answers: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self.seconds = 0.0
        """In the scorer, for the scores that came."""
        self.fault = ""

    def add(self, sample: Sample) -> None:
        """A sample has ended."""
        if sample.answer is None or self.fault:
            return
        self._waiting.append(sample)
        self._answers.add(sample.answer)
        if len(self._answers) > 1 and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and not self.fault:
            batch, self._waiting = self._waiting, []
            begun = loop.time()
            try:
                scores = await self._scorer.score_steps(self._problem, [sample.text for sample in batch])
                for sample, steps in zip(batch, scores, strict=True):
                    # A NaN from a broken model must not decide anything, nor reach the journal.
                    sample.steps = tuple(steps) if all(map(math.isfinite, steps)) else ()
            except asyncio.CancelledError:
                raise
            # A library that calls sys.exit() must not take the contest's loop with it; nor its panic.
            except BaseException as error:
                log.exception("no PRM scores")
                self.fault = f"{type(error).__name__}: {error}"
                return
            self.seconds += loop.time() - begun

    async def finish(self, seconds: float) -> None:
        """Wait for what is being scored, at most so long; what is late counts as unscored."""
        if self._task is None or self._task.done():
            return
        if seconds > 0:
            await asyncio.wait({self._task}, timeout=seconds)
        if not self._task.done():
            self.fault = self.fault or "no time for all PRM scores"
            self._task.cancel()
            # The thread or process behind it goes on to the end of its batch; nobody waits for that.
            await asyncio.wait({self._task}, timeout=0.1)
