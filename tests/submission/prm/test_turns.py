"""Engine and PRM by turns on one GPU: order, cost, deadline, and every way in which a turn can fail."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from submission.engines.base import EngineError
from submission.prm.turns import KEPT, Turn, Turns
from tests.submission.prm.scripted import Gpu, SleepyEngine, SleepyScorer
from tests.submission.virtual import run_virtual

T = TypeVar("T")
TURN = ["engine sleeps", "PRM wakes", "PRM scores", "PRM sleeps", "engine wakes"]
SECONDS = {"engine sleeps": 4.0, "PRM wakes": 1.0, "PRM sleeps": 2.0, "engine wakes": 3.0, "PRM scores": 5.0}
TEXTS = ["a" * 60, "b" * 40]


class Shared:
    """Both, started and rehearsed on a GPU."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.faults: list[tuple[str, str]] = []
        self.engine, self.scorer = SleepyEngine(gpu), SleepyScorer(gpu)
        self.turns = Turns(self.engine, self.scorer, lambda what, why: self.faults.append((what, why)))

    async def start(self) -> None:
        await self.turns.start(100.0)
        await self.engine.start()
        await self.turns.rehearse()

    async def score(self, seconds: float = 100.0) -> Turn:
        return await self.turns.score("p", TEXTS, seconds)


def play(
    work: Callable[[Shared], Coroutine[Any, Any, T]],
    *,
    faults: dict[str, BaseException] | None = None,
    start: bool = True,
    **seconds: float,
) -> tuple[T, Shared]:
    """The result of `work` after a start without a fault; `faults` come after it."""

    async def run() -> tuple[T, Shared]:
        shared = Shared(Gpu(SECONDS))
        if start:
            await shared.start()
            assert shared.faults == []
        shared.gpu.events.clear()
        shared.gpu.faults = dict(faults or {})
        shared.gpu.seconds |= {name.replace("_", " "): value for name, value in seconds.items()}
        return await work(shared), shared

    return run_virtual(run())[0]


def test_the_first_sleeps_before_the_second_loads_and_a_turn_is_rehearsed() -> None:
    _, shared = play(Shared.start, start=False)
    assert shared.gpu.events == ["PRM starts", "PRM sleeps", "engine starts", *TURN[:2], *TURN[3:]]
    assert shared.turns.cost == 10.0 and shared.turns.seconds["PRM wakes"] == (1.0,)
    assert shared.gpu.holders == {"engine"}


def test_a_turn() -> None:
    turn, shared = play(Shared.score)
    assert turn == Turn(scores=[[0.5], [0.5]], swap=10.0, scoring=5.0)
    assert shared.gpu.events == TURN and shared.scorer.batches == [TEXTS]
    assert shared.gpu.holders == {"engine"} and shared.faults == []


def test_the_deadline_decides() -> None:
    """10 s for the change and, from the first scores on, 5 s for as much text: 15 s are too few."""

    async def work(shared: Shared) -> list[Turn]:
        return [await shared.score(seconds) for seconds in (10.0, 0.0, 15.5, 15.0, 16.0)]

    turns, shared = play(work)
    assert [turn.scores is not None for turn in turns] == [False, False, True, False, True]
    assert turns[0].why == "10.0 s left, 10.0 s needed" and turns[3].why == "15.0 s left, 15.0 s needed"
    assert shared.gpu.events == TURN * 2 and turns[0].swap == 0.0


def test_the_longest_of_the_last_turns_counts() -> None:
    async def work(shared: Shared) -> list[float]:
        costs = []
        for seconds in (9.0, *[4.0] * KEPT):
            shared.gpu.seconds["engine sleeps"] = seconds
            await shared.score()
            costs.append(shared.turns.cost)
        return costs

    costs, _ = play(work)
    assert costs == [15.0] * KEPT + [10.0]


def test_late_scores_are_cut_off_in_time_to_change_back() -> None:
    async def work(shared: Shared) -> tuple[Turn, float]:
        begun = asyncio.get_running_loop().time()
        turn = await shared.score(20.0)
        return turn, asyncio.get_running_loop().time() - begun

    (turn, passed), shared = play(work, PRM_scores=60.0)
    assert (turn.scores, turn.why) == (None, "no time for all PRM scores")
    assert passed == 20.0 and turn.scoring == 10.0 and turn.swap == 10.0
    assert shared.gpu.events == [*TURN[:2], *TURN[3:]] and shared.turns.dropped == ""


def test_a_text_that_cannot_be_scored_costs_its_problem() -> None:
    turn, shared = play(Shared.score, faults={"PRM scores": ValueError("no steps")})
    assert (turn.scores, turn.why) == (None, "ValueError: no steps")
    assert shared.gpu.events == [*TURN[:2], "PRM scores: failed", *TURN[3:]]
    assert shared.turns.dropped == "" and shared.faults == []


@pytest.mark.parametrize(
    ("step", "error"),
    [
        *((step, EngineError("gone")) for step in TURN),
        ("PRM wakes", TimeoutError("late")),
        ("PRM sleeps", RuntimeError("odd")),
    ],
)
def test_whatever_fails_costs_the_prm_and_the_engine_serves(step: str, error: Exception) -> None:
    async def work(shared: Shared) -> list[Turn]:
        return [await shared.score(), await shared.score()]

    (turn, later), shared = play(work, faults={step: error})
    events = shared.gpu.events
    assert events[: TURN.index(step) + 1] == [*TURN[: TURN.index(step)], f"{step}: failed"]
    assert events.count("PRM closes") == 1
    # Never beside the PRM: `Gpu.take` would have said so. At the end the engine has it alone.
    assert shared.gpu.holders == {"engine"} and shared.engine.awake.is_set()
    said = f"{type(error).__name__}: {error}"
    assert shared.faults == [("PRM dropped", said)]
    scored = TURN.index(step) > TURN.index("PRM scores")
    assert (turn.scores is not None) == scored and turn.why == ("" if scored else said)
    assert later == Turn(why=f"no PRM: {said}")
    if not step.startswith("engine"):
        assert events[-2:] == ["PRM closes", "engine wakes"]


def test_a_prm_that_does_not_close_is_not_waited_for() -> None:
    async def work(shared: Shared) -> tuple[Turn, float]:
        async def deaf() -> None:
            shared.gpu.holders.discard("PRM")
            await asyncio.sleep(1_000)

        shared.scorer.close = deaf  # type: ignore[method-assign]  # for this one
        begun = asyncio.get_running_loop().time()
        return await shared.score(), asyncio.get_running_loop().time() - begun

    (turn, passed), shared = play(work, faults={"PRM wakes": EngineError("gone")})
    assert turn.why == "EngineError: gone" and passed == 4 + 1 + 10 + 3
    assert shared.gpu.events[-1] == "engine wakes"


def test_no_turn_is_begun_while_samples_are_written() -> None:
    async def work(shared: Shared) -> Turn:
        shared.engine.writing = 2
        return await shared.score()

    turn, shared = play(work)
    assert turn == Turn(why="2 samples are being written") and shared.gpu.events == []


def test_a_turn_whose_caller_is_gone_goes_on_to_its_end() -> None:
    """The gateway gave the problem up in the midst of a turn; the next one's samples wait for the engine."""

    async def work(shared: Shared) -> tuple[Turn, list[str]]:
        asking = asyncio.create_task(shared.score())
        await asyncio.sleep(6.0)
        asking.cancel()
        await asyncio.wait({asking})
        second = await shared.score()
        await shared.engine.awake.wait()
        return second, list(shared.gpu.events)

    (second, events), shared = play(work)
    assert second.why == "the engines are changing places"
    assert events == TURN and shared.turns.dropped == ""


def test_a_change_back_that_is_late_does_not_hold_the_answer() -> None:
    async def work(shared: Shared) -> tuple[Turn, list[str]]:
        turn = await shared.score(30.0)
        events = list(shared.gpu.events)
        await shared.engine.awake.wait()
        return turn, events

    (turn, events), shared = play(work, engine_wakes=50.0)
    assert turn.scores is not None and events == TURN[:4] and shared.gpu.events == TURN


@pytest.mark.parametrize(
    ("failed", "awake", "ended"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_room_is_made_for_an_engine_that_is_started_anew(failed: bool, awake: bool, ended: bool) -> None:
    async def work(shared: Shared) -> bool:
        if awake:
            asking = asyncio.create_task(shared.score())
            await asyncio.sleep(7.0)
            assert shared.gpu.holders == {"PRM"}
        done = await shared.turns.make_room(failed)
        # The keeper would start an engine now.
        assert ("PRM" in shared.gpu.holders) == (awake and not ended)
        if awake:
            await asking
        return done

    done, shared = play(work)
    assert done == ended == ("PRM closes" in shared.gpu.events) == bool(shared.turns.dropped)


@pytest.mark.parametrize("step", ["PRM starts", "PRM sleeps"])
@pytest.mark.parametrize("error", [EngineError("no room"), SystemExit("no GPU"), None])
def test_a_prm_that_does_not_start_is_gone_before_the_engine_comes(
    step: str, error: BaseException | None
) -> None:
    """`None`: it hangs."""

    async def work(shared: Shared) -> str:
        if error is None:
            shared.gpu.seconds[step] = 1e6
        with pytest.raises(EngineError) as told:
            await shared.turns.start(100.0)
        await shared.engine.start()
        await shared.turns.rehearse()
        return str(told.value)

    told, shared = play(work, faults={} if error is None else {step: error}, start=False)
    late = {
        "PRM starts": "the PRM did not start within 100 s",
        "PRM sleeps": "the PRM did not fall asleep in time",
    }
    assert told == (str(error) if error else late[step]) == shared.turns.dropped
    assert shared.gpu.events[-2:] == ["PRM closes", "engine starts"] and shared.gpu.holders == {"engine"}


def test_a_rehearsal_that_fails_costs_the_prm() -> None:
    async def work(shared: Shared) -> None:
        await shared.turns.start(100.0)
        await shared.engine.start()
        shared.gpu.faults["PRM wakes"] = EngineError("out of memory")
        await shared.turns.rehearse()

    _, shared = play(work, start=False)
    assert shared.faults == [("PRM dropped", "EngineError: out of memory")]
    assert shared.gpu.events[-2:] == ["PRM closes", "engine wakes"]


def test_closing_ends_a_turn_under_way() -> None:
    async def work(shared: Shared) -> float:
        asking = asyncio.create_task(shared.score())
        await asyncio.sleep(6.0)
        begun = asyncio.get_running_loop().time()
        await shared.turns.close()
        await shared.turns.close()
        await asking
        return asyncio.get_running_loop().time() - begun

    passed, shared = play(work)
    assert passed == 0.0 and shared.gpu.events == [*TURN[:2], "PRM closes"] and shared.faults == []
