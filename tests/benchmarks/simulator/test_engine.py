"""Samples that slow each other down, by hand on a virtual clock."""

import asyncio
from collections.abc import Sequence

import pytest

from benchmarks.simulator.engine import RecordedScorer, SimulatedEngine
from benchmarks.simulator.pool import PoolSample
from submission.engines.base import Chunk, EngineError, SampleRequest, Sampling
from tests.submission.virtual import run_virtual


def sample(work: float, *, ended: bool = True, tokens: int = 80) -> PoolSample:
    return PoolSample(f"takes {work}", 1, tokens, work, ended, logprob=-8.0)


def shared(running: int) -> float:
    """One engine's time, divided."""
    return 1 / running


async def draw(engine: SimulatedEngine, attempt: int, after: float = 0.0, length: int = 1_000) -> list[Chunk]:
    await asyncio.sleep(after)
    request = SampleRequest(f"r{attempt}", [0], Sampling(max_tokens=length), problem="p", attempt=attempt)
    return [chunk async for chunk in engine.generate(request)]


def ends(samples: Sequence[PoolSample], begins: Sequence[float], places: int = 9) -> list[float]:
    """Virtual seconds at which each sample has ended."""

    async def play() -> list[float]:
        engine = SimulatedEngine({"p": samples}, shared, places=places)
        loop = asyncio.get_running_loop()

        async def one(attempt: int, after: float) -> float:
            await draw(engine, attempt, after)
            return loop.time()

        return await asyncio.gather(*(one(number, after) for number, after in enumerate(begins)))

    return run_virtual(play())[0]


def test_two_samples_share_and_the_last_one_runs_alone() -> None:
    # Both get half until 2, then the longer one has its second second alone.
    assert ends([sample(1.0), sample(2.0)], [0, 0]) == pytest.approx([2, 3])


def test_one_that_comes_later_slows_the_others_from_then_on() -> None:
    # Alone to 1, then half speed: the first still lacks 1, which takes until 3; the second then lacks 2.
    assert ends([sample(2.0), sample(3.0)], [0, 1]) == pytest.approx([3, 5])


def test_no_more_run_than_there_are_places() -> None:
    assert ends([sample(1.0)] * 3, [0, 0, 0], places=1) == pytest.approx([1, 2, 3])


def test_one_that_is_given_up_leaves_its_share() -> None:
    async def play() -> float:
        engine = SimulatedEngine({"p": [sample(2.0), sample(9.0)]}, shared, places=9)
        first, second = (asyncio.create_task(draw(engine, number)) for number in (0, 1))
        await asyncio.sleep(1.0)
        second.cancel()
        await first
        return asyncio.get_running_loop().time()

    assert run_virtual(play())[0] == pytest.approx(2.5)


def test_tokens_text_and_logprobs_arrive_whole() -> None:
    engine_of = {"p": [sample(2.0)]}
    chunks, seconds = run_virtual(_once(engine_of))
    assert seconds == pytest.approx(2)
    assert "".join(chunk.text for chunk in chunks) == "takes 2.0"
    assert sum(len(chunk.token_ids) for chunk in chunks) == 80
    assert sum(sum(chunk.logprobs) for chunk in chunks) == pytest.approx(-8)
    assert chunks[-1].finish_reason == "stop"


def test_a_shorter_length_cuts_time_and_text() -> None:
    chunks, seconds = run_virtual(_once({"p": [sample(2.0)]}, length=20))
    assert seconds == pytest.approx(0.5)
    assert "".join(chunk.text for chunk in chunks) == ""
    assert chunks[-1].finish_reason == "length"


async def _once(samples: dict[str, list[PoolSample]], length: int = 1_000) -> list[Chunk]:
    return await draw(SimulatedEngine(samples, shared, places=9), 0, length=length)


def test_what_was_cut_off_never_ends_by_itself() -> None:
    async def play() -> None:
        async with asyncio.timeout(1_000):
            await _once({"p": [sample(2.0, ended=False)]})

    with pytest.raises(TimeoutError):
        run_virtual(play())


def test_a_problem_without_samples_is_the_engines_error() -> None:
    with pytest.raises(EngineError, match="no sample of problem 'p'"):
        run_virtual(_once({}))


def test_scores_are_those_of_the_text() -> None:
    scorer = RecordedScorer({"p": [PoolSample("a", 1, 1, 1.0, steps=(0.1, 0.9)), PoolSample("b", 2, 1, 1.0)]})
    assert run_virtual(scorer.score_steps("p", ["b", "a"]))[0] == [[], [0.1, 0.9]]
