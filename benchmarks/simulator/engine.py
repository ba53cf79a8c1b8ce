"""An engine whose samples slow each other down, and a scorer of recorded scores; on any clock."""

import asyncio
import heapq
import itertools
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from benchmarks.simulator.pool import PoolSample
from submission.engines.base import Chunk, EngineError, Message, SampleRequest
from submission.engines.replay import CHUNKS, ReplayEngine

TINY = 1e-9
"""Of the work done: rounding in sums of times, below what a loop's timers tell apart."""
OPINIONS = 10_000
"""Attempts from here on are those of `submission.solving.second_look`."""


class SharedClock:
    """Processor sharing: the work that each of the present ones has been given, one figure for all.

    The virtual time of fair queueing (Parekh and Gallager 1993): as all present ones advance alike, one is
    done when the common work has risen by its own. Belongs to the running loop.

    Args:
        rate: work a second of each of so many, at least one.
    """

    def __init__(self, rate: Callable[[int], float]) -> None:
        self._rate = rate
        self._present = 0
        self._work = 0.0
        self._at = 0.0
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self) -> float:
        """One more is present; returns the work so far."""
        self._advance()
        self._present += 1
        self._arm()
        return self._work

    def leave(self) -> None:
        """One is gone."""
        self._advance()
        self._present -= 1
        self._arm()

    async def reach(self, work: float) -> None:
        """Wait until the common work is so much; the caller is present."""
        self._advance()
        if work <= self._work:
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (work, next(self._number), future))
        self._arm()
        await future

    def _advance(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._present:
            self._work += (now - self._at) * self._rate(self._present)
        self._at = now

    def _arm(self) -> None:
        """Wake up when the next one is done, if nothing changes before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._waiting[0][2].done():  # given up by who waited
            heapq.heappop(self._waiting)
        if self._waiting and self._present:
            seconds = max(0.0, self._waiting[0][0] - self._work) / self._rate(self._present)
            self._timer = asyncio.get_running_loop().call_later(seconds, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._advance()
        due = self._work + TINY * (1 + self._work)
        while self._waiting and self._waiting[0][0] <= due:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)
        self._arm()


class SimulatedEngine(ReplayEngine):
    """Plays `samples[problem][attempt]`, wrapping round, each at the speed that its company leaves it.

    Args:
        samples: of every problem, at least one.
        rate: seconds of work alone that each of so many samples gets done in a second.
        places: samples that the engine runs at once; more of them wait their turn.
        load_seconds: what `start` takes.
        opinion: what a verifier or selector writes, from problem, prompt and attempt; None where nobody asks.
    """

    def __init__(
        self,
        samples: Mapping[str, Sequence[PoolSample]],
        rate: Callable[[int], float],
        *,
        places: int,
        load_seconds: float = 0.0,
        opinion: Callable[[str, str, int], PoolSample] | None = None,
    ) -> None:
        super().__init__({}, load_seconds=load_seconds)
        self._samples = samples
        self._clock = SharedClock(rate)
        self._places = asyncio.Semaphore(places)
        self._opinion = opinion

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        """The characters themselves where opinions are asked for: what is asked must be read again."""
        if self._opinion is None:
            return super().encode_chat(messages, tools=tools)
        return [ord(char) for message in messages for char in message.content]

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """Play one sample in equal parts of its work; what does not end by itself hangs at its last part."""
        sample = self._sample(request)
        tokens = min(sample.tokens, request.sampling.max_tokens)
        short = tokens < sample.tokens
        work = sample.work * tokens / sample.tokens if short else sample.work
        aborted = self._running[request.request_id] = asyncio.Event()
        try:
            async with self._places:
                begun = self._clock.enter()
                try:
                    for part in range(1, CHUNKS + 1):
                        await self._clock.reach(begun + work * part / CHUNKS)
                        if part == CHUNKS and not (sample.ended or short):
                            await aborted.wait()
                        if aborted.is_set():
                            return
                        yield _chunk(sample, tokens, part, short=short)
                finally:
                    self._clock.leave()
        finally:
            self._running.pop(request.request_id, None)

    def _sample(self, request: SampleRequest) -> PoolSample:
        if self._opinion is not None and request.attempt >= OPINIONS:
            return self._opinion(request.problem, "".join(map(chr, request.prompt)), request.attempt)
        samples = self._samples.get(request.problem)
        if not samples:
            raise EngineError(f"the recording holds no sample of problem {request.problem!r}")
        return samples[request.attempt % len(samples)]


def _chunk(sample: PoolSample, tokens: int, part: int, *, short: bool) -> Chunk:
    """The part's tokens; the text comes with the last one, and not at all where the length was cut."""
    count = tokens * part // CHUNKS - tokens * (part - 1) // CHUNKS
    each = sample.logprob / sample.tokens if sample.tokens else math.nan
    logprobs = (each,) * count if math.isfinite(each) else ()
    if part < CHUNKS:
        return Chunk("", (0,) * count, logprobs)
    return Chunk("" if short else sample.text, (0,) * count, logprobs, "length" if short else "stop")


class RecordedScorer:
    """Gives the recorded scores of the recorded samples; it is told nothing but their texts.

    Args:
        samples: of every problem.
        seconds_a_token: of a completion; batches are scored one after the other. That the PRM slows down an
            engine on the same processor is not played.
    """

    def __init__(self, samples: Mapping[str, Sequence[PoolSample]], seconds_a_token: float = 0.0) -> None:
        self._known = {one.text: one for found in samples.values() for one in found}
        self._seconds = seconds_a_token
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Nothing to load."""

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:  # noqa: ARG002
        """What was recorded; nothing for a sample that was not scored."""
        scored = [self._known[text] for text in completions if text in self._known]
        async with self._turn:
            await asyncio.sleep(self._seconds * sum(one.tokens for one in scored if one.steps))
        return [list(self._known[text].steps) if text in self._known else [] for text in completions]

    async def close(self) -> None:
        """Nothing to free."""
