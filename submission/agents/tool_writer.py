"""The writer: a sample in one go, or in rounds of thought, code, and the code's output.

What the code printed is appended as tokens of its own, marked as not the model's: they count towards the
length, never as text that the model wrote. Tokens are only ever appended, so the engine's prefix cache holds
for every round.
"""

import asyncio
import math
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from submission.agents.formats import Call, Fenced, TextEngine, ToolFormat
from submission.engines.base import EngineError, FinishReason, SampleRequest

NO_BLOCK = "Error: no whole block of python code stands before this output."
NO_ROUNDS = "Error: no more code can be run. Give the answer now."
LONG_ROUND = 1_000
"""Tokens of a round that may take a millisecond to read."""


@dataclass(frozen=True)
class ToolOutput:
    """What running some code gave: text for the model, and whether it failed."""

    text: str
    failed: bool


class CodeRunner(Protocol):
    """Runs one sample's code, keeping its state from call to call."""

    async def run(self, code: str) -> ToolOutput:
        """Never raises for anything that the code does."""


@dataclass(frozen=True)
class ToolCall:
    """One call of a sample, for the report. `code` is empty where there was none to run."""

    code: str
    output: str
    failed: bool
    seconds: float


@dataclass
class Written:
    """A sample as it grows: whoever holds it sees all that was written so far, should the writing be cut off.

    Args:
        ids, logprobs, mask: of each token after the prompt: its log-probability (NaN for the tool's), and
            whether the model wrote it.
        pieces: the model's own text.
        finish: how it ended; None while it has not.
        calls, failures: code blocks that were asked for, and those that failed.
        log: the calls.
        prompted, cached: tokens of all rounds' prompts, and those of them that came from the engine's prefix
            cache (0 of both where the engine does not tell).
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    finish: FinishReason | None = None
    calls: int = 0
    failures: int = 0
    log: list[ToolCall] = field(default_factory=list)
    prompted: int = 0
    cached: int = 0
    own: int = 0
    """Tokens of the model's own, and below the sum of their log-probabilities: kept, since summing up long
    samples when many are cut off at once holds the loop."""
    logprob: float = 0.0

    def take(self, ids: Sequence[int], logprobs: Sequence[float] | None) -> None:
        """Append tokens of the model, or of the tool (without log-probabilities)."""
        self.ids += ids
        self.logprobs += logprobs if logprobs is not None else [math.nan] * len(ids)
        self.mask += [int(logprobs is not None)] * len(ids)
        if logprobs is not None:
            self.own += len(ids)
            self.logprob += sum(logprobs)  # of infinities NaN, where fsum raises

    @property
    def text(self) -> str:
        """What the model itself wrote."""
        return "".join(self.pieces)


async def write_with_tools(
    engine: TextEngine,
    request: SampleRequest,
    runner: CodeRunner,
    *,
    rounds: int,
    output_chars: int = 2_000,
    tool_format: ToolFormat | None = None,
    written: Written | None = None,
    turn: asyncio.Lock | None = None,
) -> Written:
    """Write one sample, running its code.

    Args:
        request: `sampling.max_tokens` bounds all tokens after the prompt, the tool's included; its stop
            strings end a round without code. Each round has a seed that follows from the request's.
        rounds: code blocks that are run at most; later ones are told so.
        output_chars: of one output at most.
        tool_format: how the model calls its tool; fenced blocks by default.
        written: is filled as it goes; a new one by default.
        turn: shared by the samples of one event loop: long rounds that end together are then read one a turn
            of the loop, which takes milliseconds each.

    Raises:
        EngineError: the engine lost the sample.
    """
    form = tool_format or Fenced()
    written = Written() if written is None else written
    for number in range(rounds + 2):
        left = request.sampling.max_tokens - len(written.ids)
        if left < 1:
            break
        begun = len(written.ids)
        finish = await _round(engine, _asked(request, form, written, number, left), written)
        # Samples that reach their length do so together: none is read in vain.
        call = await _call(form, engine, written.ids[begun:], turn) if finish != "length" else None
        if call is None:
            written.finish = finish
            return written
        output = await _output(call.code, runner, written, allowed=number < rounds)
        room = request.sampling.max_tokens - len(written.ids)
        written.take(form.reply(engine, output, output_chars)[:room], None)
        written.pieces.append("\n")
    written.finish = "length"
    return written


async def write_at_once(engine: TextEngine, request: SampleRequest, written: Written) -> Written:
    """Write one sample that has no tool; see `write_with_tools`."""
    written.finish = await _round(engine, request, written)
    return written


async def _call(
    form: ToolFormat, engine: TextEngine, ids: Sequence[int], turn: asyncio.Lock | None
) -> Call | None:
    """The call at the end of a round."""
    if turn is None or len(ids) < LONG_ROUND:
        return form.call(engine, ids)
    async with turn:
        call = form.call(engine, ids)
        await asyncio.sleep(0)
        return call


def _asked(
    request: SampleRequest, form: ToolFormat, written: Written, number: int, left: int
) -> SampleRequest:
    """The request of one round: the prompt and all that was written since."""
    sampling = request.sampling
    return replace(
        request,
        request_id=f"{request.request_id}-r{number}",
        prompt=[*request.prompt, *written.ids],
        sampling=replace(
            sampling,
            max_tokens=left,
            stop=(*sampling.stop, *form.stops),
            stop_token_ids=(*sampling.stop_token_ids, *form.stop_token_ids),
            seed=None if sampling.seed is None else (sampling.seed + number) % (1 << 63),
        ),
    )


async def _round(engine: TextEngine, request: SampleRequest, written: Written) -> FinishReason:
    """Stream one round into `written`."""
    finish: FinishReason | None = None
    tokens = 0
    cached: int | None = None
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            # Engines without log-probabilities (recordings) leave them out.
            logprobs = chunk.logprobs or (math.nan,) * len(chunk.token_ids)
            assert len(chunk.token_ids) == len(logprobs), "one log-probability a token"
            written.take(chunk.token_ids, logprobs)
            written.pieces.append(chunk.text)
            tokens += len(chunk.token_ids)
            finish = chunk.finish_reason or finish
            cached = chunk.cached if chunk.cached is not None else cached
    if cached is not None:
        written.prompted += len(request.prompt)
        written.cached += cached
    if finish is None or not tokens:
        raise EngineError(f"the engine ended {request.request_id} after {tokens} tokens without a reason")
    return finish


async def _output(code: str | None, runner: CodeRunner, written: Written, *, allowed: bool) -> str:
    written.calls += 1
    if code is None or not allowed:
        output = ToolOutput(NO_BLOCK if code is None else NO_ROUNDS, failed=True)
        seconds = 0.0
    else:
        output, seconds = await _timed(runner, code)
    written.failures += output.failed
    written.log.append(ToolCall(code or "", output.text, output.failed, seconds))
    return output.text or "(no output)"


async def _timed(runner: CodeRunner, code: str) -> tuple[ToolOutput, float]:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        output = await runner.run(code)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - a tool that is broken costs its call, not the sample
        output = ToolOutput(f"Error: the code could not be run ({type(error).__name__}).", failed=True)
    return output, loop.time() - begun
