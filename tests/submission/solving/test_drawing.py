"""A sample's text is read beside the event loop where it is long; what it is stays what it was."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from submission.agents.team import Role, Team
from submission.agents.tool_writer import Written
from submission.engines.base import Message
from submission.engines.replay import Recorded, ReplayEngine
from submission.settings import ContestRules, SolverSettings
from submission.solving.drawing import LONG, Asked, Drawer
from submission.solving.sample import Sample
from submission.solving.second_look import LONGEST, SecondLook
from tests.submission.virtual import run_virtual

# The answer comes first, so that all of the rest is searched before it is found.
SLOW = "Answer: 5\n" + "nswer: " * 30 + "A:" * 200_000


def drawer(*recorded: Recorded) -> Drawer:
    return Drawer(ReplayEngine({"p": recorded}), SolverSettings(), ContestRules(), None)


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)


def begin(one: Drawer, sample: Sample, written: Written) -> "asyncio.Task[None]":
    asked = Asked([0], 1_000_000)
    return asyncio.create_task(one.draw(sample, Role(name="solver"), asked, "p", written))


def test_the_loop_goes_on_while_long_texts_are_read() -> None:
    async def main() -> int:
        samples = [Sample(attempt=number) for number in range(3)]
        one = drawer(Recorded(SLOW, tokens=80, seconds=0))
        tasks = [begin(one, sample, Written()) for sample in samples]
        await until(lambda: samples[0].text != "")
        wakes = 0
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
            wakes += 1
        assert [(sample.finish, sample.answer, sample.text) for sample in samples] == [("stop", 5, SLOW)] * 3
        return wakes

    assert asyncio.run(main()) > 5


def test_a_sample_that_is_cut_off_while_it_is_read_has_ended_by_itself() -> None:
    async def main() -> None:
        sample, written = Sample(attempt=0), Written()
        task = begin(drawer(Recorded(SLOW, tokens=80, seconds=0)), sample, written)
        await until(lambda: written.finish is not None)
        assert sample.finish == "running"  # to the policy, until its answer is known
        task.cancel()
        await task
        assert (sample.finish, sample.answer) == ("stop", 5)

    asyncio.run(main())


@pytest.mark.parametrize("again", [False, True])
def test_a_sample_that_is_cut_off_keeps_what_it_wrote(again: bool) -> None:
    text = "\\boxed{7} " + "so " * LONG + "\\boxed{8}"

    async def main() -> None:
        sample, written = Sample(attempt=0), Written()
        task = begin(drawer(Recorded(text, tokens=80, seconds=0.4)), sample, written)
        await until(lambda: len(written.text) >= LONG)
        task.cancel()
        if again:
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (sample.finish, sample.answer) == ("aborted", 7)
        assert text.startswith(sample.text)
        assert len(sample.text) >= LONG

    asyncio.run(main())


def test_prompts_of_checkers_hold_no_more_than_is_quickly_tokenized() -> None:
    lengths: list[int] = []

    class Measured(ReplayEngine):
        def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
            lengths.append(sum(len(message.content) for message in messages))
            return super().encode_chat(messages, tools=tools)

    team = Team(
        roles=(
            Role(name="solver"),
            Role(name="verifier", task="verify", user_prompt="{problem}{candidate}"),
            Role(name="selector", task="select", user_prompt="{problem}{candidates}"),
        )
    )
    engine = Measured({"p": [Recorded("\\boxed{correct}", tokens=5, seconds=1)]})
    asking = Drawer(engine, SolverSettings(max_tokens=1_000), ContestRules(), None)
    samples = [
        Sample(attempt=number, text="so " * 30_000, answer=number, finish="stop") for number in range(3)
    ]
    opinions, _ = run_virtual(SecondLook(asking, team, "p", "What?").ask(samples, deadline=100.0))
    assert len(opinions) == 4  # a verifier an answer, a selector for all
    assert len(lengths) == 4
    assert all(LONGEST * 0.9 < length < LONGEST + 200 for length in lengths)
