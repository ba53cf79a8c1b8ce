"""The rounds of a tool-integrated sample, with an engine that plays a script and code that really runs."""

import asyncio
import contextlib
import io
import math
from collections.abc import AsyncGenerator, Sequence

import pytest

from submission.agents.formats import Call, Fenced, TextEngine
from submission.agents.tool_writer import (
    LONG_ROUND,
    NO_BLOCK,
    NO_ROUNDS,
    ToolOutput,
    Written,
    write_with_tools,
)
from submission.engines.base import Chunk, EngineError, SampleRequest, Sampling

END = 0
PROMPT = [7, 8]


class Script:
    """Says one text a round, byte by byte, ends behind the first stop string or with an end token."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list[SampleRequest] = []

    def encode_text(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_markup(self, text: str) -> list[int]:
        return list(text.encode())

    def decode_text(self, ids: Sequence[int]) -> str:
        return bytes(one for one in ids if one != END).decode(errors="replace")

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        self.asked.append(request)
        text = self.texts.pop(0)
        ends = [at + len(stop) for stop in request.sampling.stop if (at := text.find(stop)) >= 0]
        ids = list(text[: min(ends)].encode()) if ends else [*text.encode(), END]
        cut = len(ids) > request.sampling.max_tokens
        ids = ids[: request.sampling.max_tokens]
        for place, token in enumerate(ids):
            last = place + 1 == len(ids)
            yield Chunk("", (token,), (-0.5,), ("length" if cut else "stop") if last else None)


class Runner:
    """Runs code in this process, keeping its variables."""

    def __init__(self) -> None:
        self.names: dict[str, object] = {}
        self.ran: list[str] = []

    async def run(self, code: str) -> ToolOutput:
        self.ran.append(code)
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(code, self.names)  # noqa: S102 - the test's own code
        except Exception as error:  # noqa: BLE001
            return ToolOutput(f"{type(error).__name__}: {error}", failed=True)
        return ToolOutput(printed.getvalue(), failed=False)


def write(
    script: Script, runner: Runner | None = None, *, rounds: int = 4, max_tokens: int = 2_000
) -> Written:
    request = SampleRequest("s", PROMPT, Sampling(max_tokens=max_tokens, seed=5))
    return asyncio.run(write_with_tools(script, request, runner or Runner(), rounds=rounds))


CODE = "I add.\n```python\na = 20 + 22\nprint(a)\n```\n```output"


def parts(script: Script, written: Written) -> list[tuple[int, str]]:
    """Runs of tokens of the model (1) and of the tool (0), as text."""
    found: list[tuple[int, list[int]]] = []
    for token, mine in zip(written.ids, written.mask, strict=True):
        if not found or found[-1][0] != mine:
            found.append((mine, []))
        found[-1][1].append(token)
    return [(mine, script.decode_text(ids)) for mine, ids in found]


def test_thought_code_output_thought() -> None:
    script, runner = Script(CODE, "So \\boxed{42}."), Runner()
    written = write(script, runner)
    assert runner.ran == ["a = 20 + 22\nprint(a)\n"]
    assert parts(script, written) == [(1, CODE), (0, "\n42\n```\n"), (1, "So \\boxed{42}.")]
    assert (written.finish, written.calls, written.failures) == ("stop", 1, 0)
    assert written.ids[-1] == END
    for logprob, mine in zip(written.logprobs, written.mask, strict=True):
        assert logprob == -0.5 if mine else math.isnan(logprob)


def test_every_round_goes_on_from_all_tokens_so_far() -> None:
    script = Script(CODE, "```python\nprint(a + 1)\n```\n```output", "\\boxed{43}")
    written = write(script)
    text = script.decode_text(written.ids)
    assert "\n43\n```" in text  # the state was kept
    for asked in script.asked:
        assert list(asked.prompt) == PROMPT + written.ids[: len(asked.prompt) - 2]
    assert [asked.sampling.seed for asked in script.asked] == [5, 6, 7]
    assert len({asked.request_id for asked in script.asked}) == 3
    for asked in script.asked:
        assert asked.sampling.max_tokens + len(asked.prompt) == 2_002


def test_code_that_fails_is_told_and_counted() -> None:
    script = Script("```python\n1/0\n```\n```output", "Hm. \\boxed{1}")
    written = write(script)
    assert "ZeroDivisionError" in script.decode_text(written.ids)
    assert (written.calls, written.failures) == (1, 1)


def test_without_a_whole_block_nothing_runs() -> None:
    script, runner = Script("I think\n```output", "\\boxed{1}"), Runner()
    written = write(script, runner)
    assert runner.ran == []
    assert NO_BLOCK in script.decode_text(written.ids)
    assert (written.calls, written.failures) == (1, 1)


def test_code_that_the_limit_cut_is_never_run() -> None:
    runner = Runner()
    written = write(Script(CODE), runner, max_tokens=20)
    assert runner.ran == []
    assert written.finish == "length"
    assert len(written.ids) == 20


def test_rounds_end() -> None:
    script, runner = Script(CODE, CODE, CODE, "\\boxed{42}"), Runner()
    written = write(script, runner, rounds=1)
    assert len(runner.ran) == 1
    text = script.decode_text(written.ids)
    assert text.count(NO_ROUNDS) == 2  # and then it is over, whatever it goes on to say
    assert written.finish == "length"


def test_output_counts_towards_the_length() -> None:
    script = Script("```python\nprint('x' * 500)\n```\n```output", "\\boxed{1}")
    written = write(script, max_tokens=100)
    assert len(written.ids) == 100
    assert written.finish == "length"
    assert sum(written.mask) == len("```python\nprint('x' * 500)\n```\n```output")


def test_a_runner_that_breaks_costs_its_call() -> None:
    class Broken(Runner):
        async def run(self, code: str) -> ToolOutput:
            raise OSError("no worker")

    script = Script(CODE, "\\boxed{42}")
    written = write(script, Broken())
    assert "could not be run (OSError)" in script.decode_text(written.ids)
    assert (written.finish, written.failures) == ("stop", 1)


def test_a_lost_round_is_an_engine_error() -> None:
    class Lost(Script):
        async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
            yield Chunk("a", (65,), (-1.0,), None)

    with pytest.raises(EngineError, match="after 1 tokens without a reason"):
        write(Lost())


def test_long_rounds_that_end_together_are_read_one_a_turn_of_the_loop() -> None:
    turns: list[int] = []
    now = 0

    class Noted(Fenced):
        def call(self, engine: TextEngine, ids: Sequence[int]) -> Call | None:
            turns.append(now)
            return super().call(engine, ids)

    async def count() -> None:
        nonlocal now
        while True:
            await asyncio.sleep(0)
            now += 1

    async def main(text: str) -> list[Written]:
        nonlocal now
        now = 0
        turns.clear()
        counting, lock = asyncio.create_task(count()), asyncio.Lock()
        writing = [
            write_with_tools(
                Script(text, "\\boxed{42}"),
                SampleRequest("s", PROMPT, Sampling(max_tokens=20_000)),
                Runner(),
                rounds=2,
                tool_format=Noted(),
                turn=lock,
            )
            for _ in range(4)
        ]
        written = await asyncio.gather(*writing)
        counting.cancel()
        return written

    for text, apart in (("x\n" * LONG_ROUND + CODE, True), (CODE, False)):
        written = asyncio.run(main(text))
        assert [one.calls for one in written] == [1] * 4
        first = turns[:4]
        assert (len(set(first)) == 4) is apart, first


def test_a_round_that_the_length_cut_is_not_read() -> None:
    class Unread(Fenced):
        def call(self, engine: TextEngine, ids: Sequence[int]) -> Call | None:
            raise AssertionError("read in vain")

    request = SampleRequest("s", PROMPT, Sampling(max_tokens=20))
    written = asyncio.run(write_with_tools(Script(CODE), request, Runner(), rounds=2, tool_format=Unread()))
    assert (written.finish, written.calls) == ("length", 0)
