"""One completion from the engine, in one go or in rounds with code, as JSON can hold it between ranks."""

from contextlib import aclosing
from typing import Any

from kit.grpo.recipe import ToolSection
from kit.grpo.rollout import Completion, Failure
from submission.agents.formats import TextEngine
from submission.agents.sandbox_runner import SandboxRunner, Seats
from submission.agents.tool_writer import write_with_tools
from submission.engines.base import EngineError, SampleRequest


async def draw_one(engine: TextEngine, request: SampleRequest) -> dict[str, Any]:
    """A completion or a failure, as JSON can hold it."""
    ids: list[int] = []
    logprobs: list[float] = []
    pieces: list[str] = []
    finish = None
    try:
        async with aclosing(engine.generate(request)) as chunks:
            async for chunk in chunks:
                ids += chunk.token_ids
                logprobs += chunk.logprobs
                pieces.append(chunk.text)
                finish = chunk.finish_reason
    except EngineError as error:
        return {"reason": str(error)}
    if finish is None or not ids:
        return {"reason": f"the engine ended the sample after {len(ids)} tokens without a reason"}
    assert len(logprobs) == len(ids), "one log-probability a token"
    return {"ids": ids, "logprobs": logprobs, "text": "".join(pieces), "finish": finish}


async def draw_with_tools(
    engine: TextEngine, request: SampleRequest, seats: Seats, tools: ToolSection
) -> dict[str, Any]:
    """The same, in rounds of thought and code."""
    runner = SandboxRunner(seats)
    try:
        written = await write_with_tools(
            engine, request, runner, rounds=tools.rounds, output_chars=tools.output_chars
        )
    except EngineError as error:
        return {"reason": str(error)}
    finally:
        runner.close()
    assert written.finish is not None, "a sample that was written has ended"
    return {
        "ids": written.ids,
        "logprobs": written.logprobs,
        "mask": written.mask,
        "text": engine.decode_text(written.ids),
        "finish": written.finish,
        "tools": [written.calls, written.failures],
    }


def unpacked(row: dict[str, Any]) -> Completion | Failure:
    """From what JSON held."""
    if "reason" in row:
        return Failure(row["reason"])
    ids = tuple(row["ids"])
    mask = tuple(row.get("mask", (1,) * len(ids)))
    return Completion(ids, tuple(row["logprobs"]), mask, row["text"], row["finish"], *row.get("tools", ()))
