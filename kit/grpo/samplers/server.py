"""The other side of `kit.grpo.samplers.remote`: an engine at an address, for one trainer at a time.

A trainer says hello with what it expects: {"model": its `fingerprint`, "dtype": "" for any, "max_length":
tokens, "tools": the recipe's section or null}; with "probe" it asks without staying. The answer is {"dtype",
"workers", "fresh"}, or {"refused": why}, or {"busy": why}. Then it asks ({"do", "number", ...}) and is
answered ({"number", "value" or "error"}) in any order. When its connection ends, whatever it asked for is
ended too, and the engine is free again.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kit.grpo.recipe import ToolSection
from kit.grpo.samplers.host import LocalHost
from kit.grpo.samplers.served_model import fingerprint
from kit.grpo.samplers.wire import GREETING_BYTES, RefusedError, Wire
from submission.engines.base import EngineError, SampleRequest, Sampling
from submission.frames import ClosedError

log = logging.getLogger(__name__)

CALLS = frozenset({"grpo_describe", "grpo_join", "grpo_receive", "grpo_load", "grpo_finish", "grpo_leave"})
"""Methods of the workers that a trainer may call."""
GREETING_SECONDS = 20.0
_HEALTH = 1.0
_SAMPLING = TypeAdapter(Sampling)
_PROMPT = TypeAdapter(list[int])


class Server:
    """Serves a started engine.

    Args:
        model: the folder that it serves.
        max_length: tokens of prompt and completion at most.
        once: end after the first trainer.
    """

    def __init__(self, host: LocalHost, model: Path, max_length: int, secret: bytes, *, once: bool) -> None:
        self._host, self._secret, self._once = host, secret, once
        self._has = fingerprint(model)
        self._max_length = max_length
        self._fresh = True
        self._trainer = ""
        self._since = 0.0
        self._ids = itertools.count()
        self._wires: set[Wire] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()

    async def run(self, address: str, port: int) -> None:
        """Serve until the engine dies, or (`once`) the first trainer is gone.

        Raises:
            EngineError: the engine is dead. OSError: the address cannot be had.
        """
        listener = await asyncio.start_server(self._accept, address, port)
        port = listener.sockets[0].getsockname()[1]
        log.warning(
            "serving at %s port %d (%s, %s)", address, port, self._has["architecture"], self._host.dtype
        )
        try:
            while not self._done.is_set():
                await self._host.progress()
                try:
                    await asyncio.wait_for(self._done.wait(), _HEALTH)
                except TimeoutError:
                    continue
        except EngineError as error:
            for wire in set(self._wires):
                await self._say(wire, {"ends": str(error)})
            raise
        finally:
            listener.close()
            for task in set(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        wire = Wire(reader, writer)
        try:
            await self._served(wire)
        finally:
            await wire.close()
            self._tasks.discard(task)

    async def _served(self, wire: Wire) -> None:
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                await wire.prove("server", self._secret)
                hello = await wire.receive(16 * GREETING_BYTES)
        except RefusedError as error:
            log.warning("%s was refused: %s", wire.there, error)
            return
        except (ClosedError, TimeoutError):
            return
        if self._trainer:
            minutes = (time.monotonic() - self._since) / 60
            busy = f"it serves the trainer at {self._trainer}, since {minutes:.0f} min"
            await self._say(wire, {"busy": busy})
            return
        if reason := self._wrong(hello):
            log.warning("%s was refused: %s", wire.there, reason)
            await self._say(wire, {"refused": reason})
            return
        said = {"dtype": self._host.dtype, "workers": self._host.workers, "fresh": self._fresh}
        if hello.get("probe"):
            await self._say(wire, said)
            return
        self._trainer, self._since = wire.there, time.monotonic()
        self._wires.add(wire)
        try:
            tools = hello["tools"]
            await asyncio.to_thread(self._host.equip, ToolSection(**tools) if tools else None)
            log.warning("serves the trainer at %s", wire.there)
            await self._say(wire, said)
            await self._answer_all(wire)
        finally:
            self._wires.discard(wire)
            log.warning("the trainer at %s is gone", wire.there)
            self._trainer = ""
            if self._once:
                self._done.set()

    def _wrong(self, hello: Mapping[str, Any]) -> str:
        """Why a trainer cannot be served; empty if it can."""
        model, dtype, length = hello.get("model"), hello.get("dtype"), hello.get("max_length")
        if not isinstance(model, dict) or not isinstance(dtype, str) or not isinstance(length, int):
            return "the greeting is not one of this version"
        try:
            ToolSection.model_validate(hello.get("tools") or {})
        except ValidationError as error:
            return f"rollout.tools: {error}"
        for what, ours in self._has.items():
            if model.get(what) != ours:
                return f"it serves another model: {what} is {ours} there and {model.get(what)} here"
        if dtype and dtype != self._host.dtype:
            return f"it serves the model in {self._host.dtype}, and rollout.engine.dtype here is {dtype}"
        if length > self._max_length:
            return f"it takes {self._max_length} tokens a sample, fewer than batch.max_length={length} here"
        return ""

    async def _answer_all(self, wire: Wire) -> None:
        """Until the trainer is gone; what it asked for goes with it."""
        asked: dict[int, asyncio.Task[None]] = {}
        try:
            while True:
                question = await wire.receive()
                number = int(question["number"])
                if question.get("do") == "abandon":
                    if number in asked:
                        asked[number].cancel()
                    continue
                task = asked[number] = asyncio.create_task(self._answer(wire, question))
                task.add_done_callback(partial(_struck_off, asked, number))
        except ClosedError:
            pass
        finally:
            ended = list(asked.values())
            for task in ended:
                task.cancel()
            await asyncio.gather(*ended, return_exceptions=True)
            # Behind whatever the workers are in: the next trainer's first question waits for it as well.
            left = asyncio.gather(self._host.call("grpo_leave"), return_exceptions=True)
            await asyncio.shield(left)

    async def _answer(self, wire: Wire, question: Mapping[str, Any]) -> None:
        number = question.get("number")
        try:
            await self._say(wire, {"number": number, "value": await self._do(question)})
        except EngineError as error:
            await self._say(wire, {"number": number, "error": str(error)})
        except Exception as error:  # noqa: BLE001 - the trainer raises it
            await self._say(wire, {"number": number, "error": f"{type(error).__name__}: {error}"})

    async def _do(self, question: Mapping[str, Any]) -> Any:
        what = question.get("do")
        if what == "progress":
            return await self._host.progress()
        if what == "forget":
            return await self._host.forget()
        if what == "draw":
            sampling = _SAMPLING.validate_python(question.get("sampling"))
            prompt = _PROMPT.validate_python(question.get("prompt"), strict=True)
            return await self._host.draw(SampleRequest(f"served-{next(self._ids)}", prompt, sampling))
        method, arguments = question.get("method"), question.get("arguments")
        if what != "call" or method not in CALLS or not isinstance(arguments, list):
            raise EngineError(f"the server does not know {what} {method}")
        if method in ("grpo_load", "grpo_receive"):
            self._fresh = False
        return await self._host.call(method, *arguments)

    async def _say(self, wire: Wire, message: Mapping[str, Any]) -> None:
        try:
            await wire.send(message)
        except ClosedError:
            return


def _struck_off(asked: dict[int, "asyncio.Task[None]"], number: int, _: "asyncio.Task[None]") -> None:
    del asked[number]
