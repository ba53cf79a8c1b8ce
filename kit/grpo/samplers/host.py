"""An engine that samples, wherever it runs: what a sampler asks of it, and the one in this process's care.

`LocalHost` starts the contest's vLLM with `SyncedWorker`; `kit.grpo.samplers.remote.RemoteHost` asks one that
`python -m kit.grpo.serve` runs elsewhere for the same things.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from kit.grpo.recipe import ToolSection
from kit.grpo.samplers.drawing import draw_one, draw_with_tools
from kit.grpo.samplers.watch import Watch
from kit.grpo.signals import blocked
from submission.agents.sandbox_runner import Seats
from submission.engines.base import Chunk, EngineError, SampleRequest
from submission.engines.vllm_engine import VllmEngine, prepare_environment
from submission.sandbox import Sandbox
from submission.settings import EngineSettings

WORKER = "kit.grpo.samplers.vllm_worker.Worker"
_LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class Host(Protocol):
    """One engine. What fails in it is an EngineError."""

    name: str
    """Who is to blame, in messages: a rank, or a server's address."""
    dtype: str
    """Of its weights, as torch names it."""

    async def call(self, method: str, *arguments: Any) -> list[Any]:
        """A method of all workers (`SyncedWorker`); their answers."""

    async def forget(self) -> bool:
        """Empty the prefix cache; False while a request that was lost holds a part of it."""

    async def draw(self, request: SampleRequest) -> dict[str, Any]:
        """A completion or a failure, as JSON can hold it (`kit.grpo.samplers.drawing`)."""

    async def progress(self) -> int:
        """A number that grows while the engine draws."""

    async def wake(self) -> None:
        """Take its GPU memory back."""

    async def rest(self) -> None:
        """Leave its GPU memory to the trainer, where it was told so."""

    async def close(self) -> None:
        """Let go of it; idempotent."""


class LocalHost:
    """vLLM in processes of its own, which end with this one; see `Host`.

    The threads in which its event loop lets others work must have `kit.grpo.signals.SIGNALS` blocked: the
    engine, which is started in one of them, is to outlive a signal that ends this process's step.

    Args:
        model: the checkpoint's folder.
        settings: of the engine, as in the contest.
        name: of this side, in messages.
        sleep: whether `rest` does anything (vLLM's sleep, level 1). Ignored where the platform has no such
            mode.
    """

    def __init__(self, model: Path, settings: EngineSettings, name: str, *, sleep: bool = False) -> None:
        self.name, self.dtype = name, ""
        self.workers: list[dict[str, Any]] = []
        """What each worker says of itself (`SyncedWorker.grpo_describe`)."""
        self._model, self._settings, self._sleep = model, settings, sleep
        self._asleep = False
        self._engine: VllmEngine | None = None
        self._watch: Watch | None = None
        self._tools: ToolSection | None = None
        self._sandbox: Sandbox | None = None
        self._seats: Seats | None = None
        self._chunks = 0

    async def start(self) -> None:
        """Load the weights.

        Raises:
            EngineError: the engine could not start, or cannot take over weights.
        """
        # multiprocessing's tracker, which is started here, leaves its starter with TERM and INT unblocked.
        with blocked():
            self._watch = Watch()
        arguments: dict[str, Any] = {"worker_cls": WORKER, "logprobs_mode": "processed_logprobs"}
        with _environment(self._watch.environment):
            prepare_environment(self._settings)
            self._sleep = self._sleep and await asyncio.to_thread(_can_sleep)
            if self._sleep:
                arguments["enable_sleep_mode"] = True
            self._engine = VllmEngine(self._model, self._settings, arguments)
            await self._engine.start()
        self.workers = await self.call("grpo_describe")
        said = self.workers[0]
        if said["quantization"] or said["mla"]:
            kind = said["quantization"] or "MLA"
            raise EngineError(
                f"weights cannot be replaced in {self._model} as vllm serves it ({kind}): serve it in "
                "bfloat16"
            )
        self.dtype = said["dtype"]

    def equip(self, tools: ToolSection | None) -> None:
        """Let completions run code from now on, in a fresh sandbox, or no more."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            sandbox.close()
        self._tools = tools
        if tools is not None:
            # So is its server, and one that replaces it.
            with blocked():
                self._sandbox = Sandbox(tools.sandbox)
            self._seats = Seats(self._sandbox, tools.timeout)

    async def call(self, method: str, *arguments: Any) -> list[Any]:
        """See `Host`."""
        answers: list[Any] = await self._llm().collective_rpc(method, args=arguments)
        return answers

    async def forget(self) -> bool:
        """See `Host`."""
        return bool(await self._llm().reset_prefix_cache())

    async def draw(self, request: SampleRequest) -> dict[str, Any]:
        """See `Host`."""
        if self._tools is None:
            row = await draw_one(self, request)
        else:
            assert self._seats is not None
            row = await draw_with_tools(self, request, self._seats, self._tools)
        if "reason" in row and self._llm().errored:
            raise EngineError(f"the engine is dead: {row['reason']}")
        return row

    async def progress(self) -> int:
        """See `Host`: pieces of samples so far."""
        if self._llm().errored:
            raise EngineError("the engine is dead: it stopped by itself")
        return self._chunks

    async def wake(self) -> None:
        """See `Host`."""
        if self._asleep:
            await self._llm().wake_up()
            self._asleep = False

    async def rest(self) -> None:
        """See `Host`."""
        if self._sleep:
            await self._llm().sleep(level=1)
            self._asleep = True

    async def close(self) -> None:
        """End the engine's processes and the sandbox."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()
        watch, self._watch = self._watch, None
        if watch is not None:
            await asyncio.to_thread(watch.close)
        self.equip(None)

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """The engine's stream, counted; see `submission.engines.base.Engine`."""
        stream = self._running().generate(request)
        try:
            async for chunk in stream:
                self._chunks += 1
                yield chunk
        finally:
            await stream.aclose()

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return self._running().encode_text(text)

    def encode_markup(self, text: str) -> list[int]:
        """Token ids of a template's own text, special tokens recognised."""
        return self._running().encode_markup(text)

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self._running().decode_text(ids)

    def _running(self) -> VllmEngine:
        assert self._engine is not None, "start() first"
        return self._engine

    def _llm(self) -> Any:
        return self._running().llm


def _can_sleep() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_sleep_mode_available())


@contextmanager
def _environment(marks: dict[str, str]) -> Iterator[None]:
    """What the engine's processes inherit: their mark, and nothing of this launch's ranks."""
    ours = {name: os.environ.pop(name) for name in _LAUNCH if name in os.environ}
    os.environ.update(marks)
    try:
        yield
    finally:
        for name in marks:
            del os.environ[name]
        os.environ.update(ours)
