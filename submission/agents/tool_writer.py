"""The tool-integrated writer: a sample in rounds of thought, code, and the code's output.

What the code printed is appended as tokens of its own, marked as not the model's: they count towards the
length, never as text that the model chose. Tokens are only ever appended, so the engine's prefix cache holds
for every round.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from submission.agents.code_blocks import OUTPUT_MARK, code_to_run, output_block
from submission.engines.base import Chunk, EngineError, FinishReason, SampleRequest

NO_BLOCK = "Error: no whole block of python code stands before this output."
NO_ROUNDS = "Error: no more code can be run. Give the answer now."


class TextEngine(Protocol):
    """What a writer needs of an engine; see `submission.engines.base.Engine`."""

    def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """Stream one sample."""

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text."""

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""


@dataclass(frozen=True)
class ToolOutput:
    """What running some code gave: text for the model, and whether it failed."""

    text: str
    failed: bool


class CodeRunner(Protocol):
    """Runs one sample's code, keeping its state from call to call."""

    async def run(self, code: str) -> ToolOutput:
        """Never raises for anything that the code does."""


@dataclass
class Written:
    """A sample as it grows.

    Args:
        ids, logprobs, mask: of each token after the prompt: its log-probability (NaN for the tool's), and
            whether the model wrote it.
        finish: how it ended.
        calls, failures: code blocks that were asked for, and those that failed.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    finish: FinishReason = "length"
    calls: int = 0
    failures: int = 0

    def take(self, ids: Sequence[int], logprobs: Sequence[float] | None) -> None:
        """Append tokens of the model, or of the tool (without log-probabilities)."""
        self.ids += ids
        self.logprobs += logprobs if logprobs is not None else [math.nan] * len(ids)
        self.mask += [int(logprobs is not None)] * len(ids)


async def write_with_tools(
    engine: TextEngine,
    request: SampleRequest,
    runner: CodeRunner,
    *,
    rounds: int,
    output_chars: int = 2_000,
) -> Written:
    """Write one sample, running its code.

    Args:
        request: `sampling.max_tokens` bounds all tokens after the prompt, the tool's included; its stop
            strings end a round without code. Each round has a seed that follows from the request's.
        rounds: code blocks that are run at most; later ones are told so.
        output_chars: of one output at most.

    Raises:
        EngineError: the engine lost the sample.
    """
    written = Written()
    sampling = request.sampling
    for number in range(rounds + 2):
        left = sampling.max_tokens - len(written.ids)
        if left < 1:
            break
        seed = None if sampling.seed is None else (sampling.seed + number) % (1 << 63)
        asked = replace(
            request,
            request_id=f"{request.request_id}-r{number}",
            prompt=[*request.prompt, *written.ids],
            sampling=replace(sampling, max_tokens=left, stop=(*sampling.stop, OUTPUT_MARK), seed=seed),
        )
        ids, logprobs, finish = await _round(engine, asked)
        written.take(ids, logprobs)
        # With a stop string the engine ends behind it, so it can only stand at the end of what it wrote.
        said, mark, _ = engine.decode_text(ids).rpartition(OUTPUT_MARK)
        if finish == "length" or not mark:
            written.finish = finish
            return written
        output = await _output(said, runner, written, allowed=number < rounds)
        block = engine.encode_text(output_block(output, output_chars))
        room = sampling.max_tokens - len(written.ids)
        written.take(block[:room], None)
    written.finish = "length"
    return written


async def _round(engine: TextEngine, request: SampleRequest) -> tuple[list[int], list[float], FinishReason]:
    ids: list[int] = []
    logprobs: list[float] = []
    finish: FinishReason | None = None
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            ids += chunk.token_ids
            logprobs += chunk.logprobs
            finish = chunk.finish_reason or finish
    if finish is None or not ids:
        raise EngineError(f"the engine ended {request.request_id} after {len(ids)} tokens without a reason")
    assert len(ids) == len(logprobs), "one log-probability a token"
    return ids, logprobs, finish


async def _output(said: str, runner: CodeRunner, written: Written, *, allowed: bool) -> str:
    written.calls += 1
    code = code_to_run(said)
    if code is None or not allowed:
        written.failures += 1
        return NO_BLOCK if code is None else NO_ROUNDS
    try:
        output = await runner.run(code)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - a tool that is broken costs its call, not the sample
        written.failures += 1
        return f"Error: the code could not be run ({type(error).__name__})."
    written.failures += output.failed
    return output.text or "(no output)"
