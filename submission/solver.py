"""One problem: parallel samples, votes as they finish, an answer always.

Samples start together and are aborted as soon as the vote is decided or the time is out. What a cut-off
sample had already put in a box still votes; without any vote the default answer is given and marked.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, cast

from submission.answers import contest_answer
from submission.engines.base import Engine, Message, SampleRequest, Sampling
from submission.scoring import Scorer
from submission.settings import ContestRules, SolverSettings
from submission.votes import decided, leader, tally

log = logging.getLogger(__name__)

# How long cut-off samples may take to let go of the engine before they are left to themselves.
ABORT_SECONDS = 1.0
# Fewer completion tokens than this are not worth a sample: the prompt is too long for the context.
LEAST_COMPLETION = 16


@dataclass
class Sample:
    """One sample, finished or not. `logprob` is the sum over its tokens, in nats."""

    attempt: int
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    logprob: float = 0.0
    answer: int | None = None
    finish: Literal["running", "stop", "length", "aborted", "error"] = "running"
    error: str = ""
    prm_score: float | None = None
    pieces: list[str] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Solution:
    """What became of a problem.

    Args:
        answer: always an integer in the contest's range.
        source: "vote" (a finished sample answered), "partial" (only cut-off samples had), "default" (none).
        votes: (answer, count), most first.
        samples: every sample that was started, in order of start.
        seconds: wall time of this problem.
        stopped: why no further sample was drawn.
        prm_means: mean PRM score of each tied answer; empty where there was no tie or no PRM.
    """

    answer: int
    source: Literal["vote", "partial", "default"]
    votes: tuple[tuple[int, int], ...]
    samples: tuple[Sample, ...]
    seconds: float
    stopped: str
    prm_means: Mapping[int, float]


class Solver:
    """Solves problems with one engine under one contest's rules."""

    def __init__(
        self, engine: Engine, settings: SolverSettings, rules: ContestRules, scorer: Scorer | None = None
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._rules = rules
        self._scorer = scorer

    async def solve(
        self, key: str, text: str, seconds: float, on_sample: Callable[[Sample], None] = lambda _: None
    ) -> Solution:
        """Answer one problem within `seconds` from now.

        Args:
            key: the problem's id: the engine's requests and recordings go by it.
            text: the problem's statement.
            seconds: time for this problem; with none left the default answer comes at once.
            on_sample: called in this loop as each sample ends.

        Engine failures cost the samples they hit and nothing else.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        run = _Run(self._engine, self._settings, self._rules, on_sample)
        stopped = "no time" if seconds <= 0 else run.prepare(key, text)
        if not stopped:
            try:
                stopped = await run.until_decided(begun + seconds)
            finally:
                await run.abort_rest()
            if self._scorer is not None:
                await run.score(self._scorer, text, begun + seconds, stopped)
        return run.solution(loop.time() - begun, stopped)


class _Run:
    """The samples of one problem while they run."""

    def __init__(
        self,
        engine: Engine,
        settings: SolverSettings,
        rules: ContestRules,
        on_sample: Callable[[Sample], None],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._rules = rules
        self._on_sample = on_sample
        self._key = ""
        self._prompt: Sequence[int] = ()
        self._max_tokens = 0
        self._samples: list[Sample] = []
        self._finished: list[Sample] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def prepare(self, key: str, text: str) -> str:
        """Render the prompt. Returns why the problem cannot be sampled, "" if it can."""
        self._key = key
        if not text.strip():
            return "empty problem"
        messages = [Message("user", text)]
        if self._settings.system_prompt:
            messages.insert(0, Message("system", self._settings.system_prompt))
        try:
            self._prompt = self._engine.encode_chat(messages)
        except Exception as error:  # noqa: BLE001 - a template or tokenizer that chokes costs this problem alone
            return f"prompt failed: {type(error).__name__}: {error}"
        room = self._engine.max_context - len(self._prompt)
        self._max_tokens = min(self._settings.max_tokens, room)
        if room < LEAST_COMPLETION:
            return f"prompt of {len(self._prompt)} tokens does not fit the context"
        return ""

    async def until_decided(self, deadline: float) -> str:
        """Draw samples until the vote is decided or loop time `deadline`; returns why it stopped."""
        loop = asyncio.get_running_loop()
        while True:
            while len(self._tasks) < self._settings.num_agents and (
                len(self._samples) < self._settings.attempts
            ):
                self._launch()
            left = deadline - loop.time()
            if left <= 0:
                return "time out"
            done, self._tasks = await asyncio.wait(
                self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            # Cancelling is the only way a sample's task ends in an exception; errors are kept in the sample.
            for task in done:
                task.result()
            votes = [sample.answer for sample in self._finished]
            reason = decided(votes, self._settings.attempts, self._settings.agree)
            if reason:
                return reason

    def _launch(self) -> None:
        sample = Sample(attempt=len(self._samples))
        self._samples.append(sample)
        self._tasks.add(asyncio.create_task(self._draw(sample)))

    async def _draw(self, sample: Sample) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        request = SampleRequest(
            # Unique over restarts and repeated problems: an engine refuses an id that it still knows.
            request_id=f"{self._key}-{sample.attempt}-{time.monotonic_ns():x}",
            prompt=self._prompt,
            sampling=self._sampling(sample.attempt),
            problem=self._key,
            attempt=sample.attempt,
        )
        try:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    sample.pieces.append(chunk.text)
                    sample.tokens += len(chunk.token_ids)
                    sample.logprob += sum(chunk.logprobs)
                    if chunk.finish_reason:
                        sample.finish = chunk.finish_reason
            if sample.finish == "running":
                sample.finish = "aborted"
        except asyncio.CancelledError:
            sample.finish = "aborted"
            raise
        except Exception as error:  # noqa: BLE001 - whatever an engine throws costs this sample alone
            sample.finish, sample.error = "error", f"{type(error).__name__}: {error}"
        finally:
            sample.seconds = loop.time() - begun
            self._read(sample)
            self._on_sample(sample)
        self._finished.append(sample)

    def _sampling(self, attempt: int) -> Sampling:
        settings = self._settings
        return Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            min_p=settings.min_p,
            max_tokens=self._max_tokens,
            stop=settings.stop,
            seed=settings.seed + attempt,
        )

    def _read(self, sample: Sample) -> None:
        sample.text = "".join(sample.pieces)
        sample.pieces.clear()
        sample.answer = contest_answer(
            sample.text,
            self._rules.answer_min,
            self._rules.answer_max,
            # A text that was cut off ends anywhere: its last number says nothing.
            last_number=self._settings.last_number and sample.finish != "aborted",
        )

    async def abort_rest(self) -> None:
        """End what still runs; wait for it, but not for ever."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=ABORT_SECONDS)

    async def score(self, scorer: Scorer, text: str, deadline: float, stopped: str) -> None:
        """Score the samples of the leading answers if the vote is tied and the time allows.

        A scorer that fails changes nothing.
        """
        ranked = tally(self._votes(stopped))
        tied = {answer for answer, count in ranked if count == ranked[0][1]}
        left = deadline - asyncio.get_running_loop().time()
        if len(tied) < 2 or left <= 0:
            return
        answered = [sample for sample in self._samples if sample.answer in tied]
        try:
            scores = await asyncio.wait_for(scorer.score(text, [sample.text for sample in answered]), left)
        except Exception:  # TimeoutError included
            log.exception("no PRM scores for %s", self._key)
            return
        for sample, value in zip(answered, scores, strict=True):
            # A NaN from a broken model must not decide anything.
            sample.prm_score = value if math.isfinite(value) else None

    def solution(self, seconds: float, stopped: str) -> Solution:
        """Count the votes."""
        votes = self._votes(stopped)
        finished = leader([sample.answer for sample in self._finished])
        source = "vote" if finished is not None else "partial"
        prm_means = self._prm_means()
        answer = leader(votes, prm_means)
        if answer is None:
            answer, source = self._rules.default_answer, "default"
        return Solution(
            answer=answer,
            source=cast("Literal['vote', 'partial', 'default']", source),
            votes=tuple(tally(votes)),
            samples=tuple(self._samples),
            seconds=seconds,
            stopped=stopped,
            prm_means=prm_means,
        )

    def _votes(self, stopped: str) -> list[int | None]:
        """Answers in order of arrival; when the time ran out, the boxes of cut-off samples as well."""
        votes = [sample.answer for sample in self._finished]
        if stopped == "time out":
            done = {sample.attempt for sample in self._finished}
            votes += [sample.answer for sample in self._samples if sample.attempt not in done]
        return votes

    def _prm_means(self) -> dict[int, float]:
        scores: dict[int, list[float]] = {}
        for sample in self._samples:
            if sample.answer is not None and sample.prm_score is not None:
                scores.setdefault(sample.answer, []).append(sample.prm_score)
        return {answer: sum(values) / len(values) for answer, values in scores.items()}
