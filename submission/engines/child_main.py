"""The engine's own process: hosts any `Engine` and speaks framed JSON with the contest's process.

    python -m submission.engines.child_main CHANNEL FACTORY

CHANNEL is a socket's descriptor; FACTORY (`module:function`) makes the engine, `make_engine` but in tests.
Chunks of one sample that come within `GATHER_SECONDS` travel together, so that an engine which yields every
token costs no process switch a token; the end of a sample travels at once.

Incoming: `start` (settings, model), `generate` (number, request), `cancel` and `abort` (number), `sleep` and
`wake`, `close`. Outgoing: `ready` or `fatal` after a start, `switched` (why not, "" if so) after a `sleep` or
`wake`, and pieces of samples by number (see `Outgoing.message`).
"""

import asyncio
import contextlib
import importlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submission.engines.base import Chunk, Engine, FinishReason, SampleRequest, Sampling, SleepingEngine
from submission.frames import ClosedError, Parser, encode
from submission.settings import EngineSettings

GATHER_SECONDS = 0.1
_FOLLOW_SECONDS = 0.5
_READ_BYTES = 1 << 18


@dataclass
class Outgoing:
    """What one sample has still to send."""

    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: FinishReason | None = None
    cached: int | None = None
    over: bool = False
    error: str | None = None

    def add(self, chunk: Chunk) -> None:
        """Join a chunk to what waits."""
        self.text.append(chunk.text)
        self.ids += chunk.token_ids
        self.logprobs += chunk.logprobs
        self.finish = chunk.finish_reason
        self.cached = chunk.cached

    def message(self, number: int) -> dict[str, Any]:
        """As it travels: `over` ends the stream, with `error` if the engine lost the sample."""
        return {
            "number": number,
            "text": "".join(self.text),
            "ids": self.ids,
            "logprobs": self.logprobs,
            "finish": self.finish,
            "cached": self.cached,
            "over": self.over,
            "error": self.error,
        }


class Host:
    """Serves one engine over a connected socket until the other side closes it or says so."""

    def __init__(self, channel: socket.socket, factory: str) -> None:
        self._channel = channel
        self._factory = factory
        self._engine: Engine | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._names: dict[int, str] = {}
        self._outgoing: dict[int, Outgoing] = {}
        self._filled = asyncio.Event()
        self._hurry = asyncio.Event()

    async def serve(self) -> None:
        """Read and obey messages, then close the engine."""
        reader, self._writer = await asyncio.open_connection(sock=self._channel)
        sender = asyncio.create_task(self._send())
        parser = Parser()
        starting: asyncio.Task[None] | None = None
        switching: asyncio.Task[None] | None = None
        try:
            while data := await reader.read(_READ_BYTES):
                for message in parser.feed(data):
                    match message["do"]:
                        case "start":
                            starting = asyncio.create_task(self._start(message))
                        case "generate":
                            self._generate(message)
                        case "cancel":
                            self._cancel(message["number"])
                        case "abort":
                            await self._abort(message["number"])
                        case "sleep" | "wake":
                            switching = asyncio.create_task(self._switch(message["do"]))
                        case "close":
                            return
        finally:
            for task in (starting, switching, sender, *self._tasks.values()):
                if task is not None:
                    task.cancel()
            if self._engine is not None:
                await self._engine.close()

    async def _start(self, message: dict[str, Any]) -> None:
        try:
            module, _, name = self._factory.partition(":")
            make = getattr(importlib.import_module(module), name)
            model = Path(message["model"]) if message["model"] else None
            self._engine = make(EngineSettings.model_validate(message["settings"]), model)
            assert self._engine is not None
            await self._engine.start()
        # A library that calls sys.exit() is told like any other failure.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            traceback.print_exc()
            self._writer.write(encode({"fatal": f"{type(error).__name__}: {error}"}))
        else:
            self._writer.write(encode({"ready": self._engine.max_context}))

    async def _switch(self, what: str) -> None:
        """Fall asleep or wake, and tell how that went."""
        fault = ""
        engine: object = self._engine
        try:
            if not isinstance(engine, SleepingEngine):
                fault = f"{type(engine).__name__} cannot {what}"
            elif what == "sleep":
                await engine.sleep()
            else:
                await engine.wake()
        except Exception as error:  # noqa: BLE001 - told to the parent
            fault = str(error) or type(error).__name__
        self._writer.write(encode({"switched": fault}))

    def _generate(self, message: dict[str, Any]) -> None:
        asked, number = message["request"], message["number"]
        # JSON knows no tuples.
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in asked["sampling"].items()
        }
        request = SampleRequest(**{**asked, "sampling": Sampling(**given)})
        self._names[number] = request.request_id
        self._tasks[number] = asyncio.create_task(self._stream(number, request))

    async def _stream(self, number: int, request: SampleRequest) -> None:
        assert self._engine is not None, "the parent waits for ready"
        error: str | None = None
        try:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    self._outgoing.setdefault(number, Outgoing()).add(chunk)
                    self._filled.set()
        except asyncio.CancelledError:
            self._outgoing.pop(number, None)
            raise
        except Exception as fault:  # noqa: BLE001 - told to the parent, whose sample it is
            error = str(fault) or type(fault).__name__
        finally:
            self._tasks.pop(number, None)
            self._names.pop(number, None)
        rest = self._outgoing.setdefault(number, Outgoing())
        rest.over, rest.error = True, error
        self._filled.set()
        self._hurry.set()

    def _cancel(self, number: int) -> None:
        if number in self._tasks:
            self._tasks[number].cancel()

    async def _abort(self, number: int) -> None:
        if self._engine is not None and number in self._names:
            await self._engine.abort(self._names[number])

    async def _send(self) -> None:
        while True:
            await self._filled.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), GATHER_SECONDS)
            self._filled.clear()
            self._hurry.clear()
            outgoing, self._outgoing = self._outgoing, {}
            self._writer.write(b"".join(encode(one.message(number)) for number, one in outgoing.items()))
            await self._writer.drain()


def follow_parent() -> None:
    """End this process soon after its parent: for processes that the engine itself started."""
    parent = os.getppid()

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(_FOLLOW_SECONDS)
        os._exit(1)

    threading.Thread(target=follow, name="follow-parent", daemon=True).start()


def main() -> None:
    """Serve until the other side of the channel is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to handle
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    code = 0
    try:
        asyncio.run(Host(channel, sys.argv[2]).serve())
    except (ClosedError, ConnectionError):
        code = 1
    except BaseException:  # noqa: BLE001 - the log is where the parent looks
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of an engine must not keep the process; its warden ends what it started.
    os._exit(code)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    # The warden ends them too; this is for the day on which both it and the engine are killed.
    follow_parent()
