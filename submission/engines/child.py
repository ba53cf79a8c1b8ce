"""The engine's process as the contest sees it: started, talked to, ended with all that it started.

Between the two stands a warden (`submission.warden`), which ends the engine whatever death this process dies.
Messages are JSON over a socket that nothing else holds; what the engine or its libraries print goes to a log.
What comes from the process is checked: one that sends anything else is ended like one that died.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal

from submission.degrade import Serving
from submission.engines.base import Chunk, EngineError, SampleRequest
from submission.frames import ClosedError, Parser, encode
from submission.processes import sweep
from submission.warden import ASKED

FACTORY = "submission.engines:make_engine"
MARK = "AIMO_ENGINE"
"""Variable that names an engine's processes, for the last sweep."""
MAX_MESSAGE = 8 << 20
"""Bytes of a message from the engine at most: a sample's text since the last one, a few kB."""
CLOSE_SECONDS = 15.0
"""For an engine to end by itself."""
VERDICT_SECONDS = 1.0
"""For the warden to notice that the engine has ended, and to tell how."""
KILL_SECONDS = 10.0
"""For the warden to end everything by force."""
TAIL_LINES = 12
_TAIL_BYTES = 8_192
_READ_BYTES = 1 << 16
_ROOT = Path(__file__).resolve().parents[2]


class EngineLostError(EngineError):
    """The engine's process is gone or given up, and with it what it was writing; a new one may serve."""

    kind = "lost"


class EngineProcess:
    """One life of an engine in a process of its own; belongs to one event loop.

    Args:
        serving: the model and the settings.
        log: what the process prints is appended there.
        memory: bytes that it and what it starts may hold, 0 for any number.
        factory: `module:function` that makes the engine there; for tests.
    """

    def __init__(self, serving: Serving, *, log: Path, memory: int = 0, factory: str = FACTORY) -> None:
        self._serving = serving
        self._log = log
        self._memory = memory
        self._factory = factory
        self._mark = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Queue[Chunk | EngineError | None]] = {}
        self._names: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[asyncio.Task[None]] = []
        self.verdict = ""
        """How it ended, in the warden's words; empty if it was ended from here."""
        self._why = ""
        self.overfull = False
        """Whether it ended because of its memory."""
        self.max_context = 0
        """Of the model, once it is started."""
        self.news = 0
        """Grows whenever the process sends something of a sample."""
        self.ended = asyncio.Event()
        """Set as soon as it is of no more use."""
        self._started: asyncio.Future[str] | None = None
        self._switched: asyncio.Future[str] | None = None
        self._killing: asyncio.Task[None] | None = None

    @property
    def requests(self) -> int:
        """Samples being written."""
        return len(self._open)

    @property
    def why(self) -> str:
        """Why it ended; the warden's word, once it has come, is more exact than what was seen here."""
        return self.verdict or self._why

    async def start(self) -> None:
        """Start the process and load the model. Raises EngineError with the cause; call `kill` after it."""
        self._started = asyncio.get_running_loop().create_future()
        channel, theirs = socket.socketpair()
        control, wardens = socket.socketpair()
        with theirs, wardens:
            try:
                # Not in a thread: a start that is cancelled in the middle must not leave a process behind.
                self._process = self._spawn(theirs.fileno(), wardens.fileno())
            except OSError as error:
                channel.close()
                control.close()
                raise EngineError(f"the engine's process cannot be started: {error}") from error
        reader, self._channel = await asyncio.open_connection(sock=channel)
        verdicts, self._control = await asyncio.open_connection(sock=control)
        self._readers = [
            asyncio.create_task(self._read(reader)),
            asyncio.create_task(self._read_verdict(verdicts)),
        ]
        model = self._serving.model
        self._tell(
            do="start",
            settings=self._serving.settings.model_dump(mode="json"),
            model=str(model.resolve()) if model else None,
        )
        fault = await self._started
        if fault:
            raise EngineError(fault)

    def _spawn(self, channel: int, control: int) -> "subprocess.Popen[bytes]":
        python = [sys.executable, "-P", "-B", "-m"]
        warden = [*python, "submission.warden", str(os.getpid()), str(control), str(self._memory)]
        command = [*python, "submission.engines.child_main", str(channel), self._factory]
        paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*warden, str(channel), *command],
                env={**os.environ, "PYTHONPATH": paths, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(channel, control),
                # What kills this process's whole group must leave the warden to end the rest.
                start_new_session=True,
            )

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """Stream one sample; leaving the iterator aborts it. Raises EngineLostError if the process ends."""
        if self.ended.is_set():
            raise EngineLostError(f"the engine {self.why}")
        number = next(self._numbers)
        queue: asyncio.Queue[Chunk | EngineError | None] = asyncio.Queue()
        self._open[number] = queue
        self._names[request.request_id] = number
        # Not `asdict`, which takes 10 ms for the prompt of a long sample that is taken up again.
        asked = {**vars(request), "prompt": list(request.prompt), "sampling": vars(request.sampling)}
        self._tell(do="generate", number=number, request=asked)
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, EngineError):
                    raise item
                yield item
        finally:
            self._names.pop(request.request_id, None)
            if self._open.pop(number, None) is not None:
                self._tell(do="cancel", number=number)

    def abort(self, request_id: str) -> None:
        """End a sample from outside; its stream ends without a reason."""
        if request_id in self._names:
            self._tell(do="abort", number=self._names[request_id])

    async def switch(self, what: Literal["sleep", "wake"]) -> None:
        """Have the engine fall asleep or wake. Raises EngineError, EngineLostError if the process ends."""
        assert self._switched is None or self._switched.done(), "one switch at a time"
        if self.ended.is_set():
            raise EngineLostError(f"the engine {self.why}")
        self._switched = asyncio.get_running_loop().create_future()
        self._tell(do=what)
        fault = await self._switched
        if fault:
            raise EngineError(fault)

    async def close(self) -> None:
        """Let the engine end by itself, then end what is left; idempotent."""
        if self._process is not None and not self.ended.is_set():
            self._tell(do="close")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), CLOSE_SECONDS)
        await self.kill()

    async def kill(self, why: str = "was ended") -> None:
        """End the process and everything that it started, by force; idempotent.

        Args:
            why: what the samples that are lost by it are told.
        """
        if self._killing is None:
            self._killing = asyncio.create_task(self._kill(why))
        # Whoever is cancelled while waiting for it, it goes on to its end.
        await asyncio.shield(self._killing)

    async def _kill(self, why: str) -> None:
        ended = self.ended.is_set()
        self._end(why)
        if self._process is None:
            return
        if self._readers:
            verdict = {self._readers[1]}
            if ended:  # by itself: the warden is about to tell how
                await asyncio.wait(verdict, timeout=VERDICT_SECONDS)
            with contextlib.suppress(OSError, RuntimeError):
                self._control.write_eof()
            await asyncio.wait(verdict, timeout=KILL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)
        # Finds nothing unless the warden was killed itself.
        await asyncio.to_thread(sweep, f"{MARK}={self._mark}")
        if self._readers:
            for reader in self._readers:
                reader.cancel()
            await asyncio.wait(self._readers)
            self._channel.close()
            self._control.close()

    def tail(self) -> str:
        """The last lines of the log, for a fault's message."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        kept = "".join(char if char.isprintable() or char == "\n" else " " for char in text)
        return "\n".join([line.rstrip()[:400] for line in kept.splitlines() if line.strip()][-TAIL_LINES:])

    def _tell(self, **message: Any) -> None:
        if not self.ended.is_set():
            self._channel.write(encode(message))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        parser = Parser(MAX_MESSAGE)
        try:
            while data := await reader.read(_READ_BYTES):
                for message in parser.feed(data):
                    self._take(message)
        except (ClosedError, _GarbageError):
            self._end("sent something that is no message")
        except OSError as error:
            self._end(f"cannot be read from: {error.strerror}")
        else:
            self._end("ended")

    async def _read_verdict(self, reader: asyncio.StreamReader) -> None:
        parser = Parser(MAX_MESSAGE)
        with contextlib.suppress(ClosedError, OSError):
            while data := await reader.read(_READ_BYTES):
                for message in parser.feed(data):
                    # Otherwise what was seen here is why it was asked to end.
                    if message["why"] != ASKED:
                        self.verdict, self.overfull = str(message["why"]), bool(message["overfull"])
        self._end("lost its warden")

    def _take(self, message: dict[str, Any]) -> None:
        assert self._started is not None
        if "ready" in message or "fatal" in message:
            if self._started.done() or type(message.get("ready", 0)) is not int:
                raise _GarbageError
            self.max_context = message.get("ready", 0)
            self._started.set_result(str(message.get("fatal", "")))
            return
        if "switched" in message:
            if self._switched is None or type(message["switched"]) is not str:
                raise _GarbageError
            if not self._switched.done():  # else nobody waits any more
                self._switched.set_result(message["switched"])
            return
        chunk, over, error = _checked(message)
        self.news += 1
        queue = self._open.get(message["number"])
        if queue is None:  # cancelled meanwhile
            return
        if chunk is not None:
            queue.put_nowait(chunk)
        if over:
            del self._open[message["number"]]
            queue.put_nowait(EngineError(error) if error is not None else None)

    def _end(self, why: str) -> None:
        if self.ended.is_set():
            return
        self._why = why
        self.ended.set()
        waiting, self._open = self._open, {}
        for queue in waiting.values():
            queue.put_nowait(EngineLostError(f"the engine {why}"))
        if self._started is not None and not self._started.done():
            self._started.set_result(f"the engine's process {why} before it was ready")
        if self._switched is not None and not self._switched.done():
            self._switched.set_exception(EngineLostError(f"the engine {why}"))


class _GarbageError(Exception):
    """A message of a form that the engine's process never sends."""


def _checked(message: dict[str, Any]) -> tuple[Chunk | None, bool, str | None]:
    """The chunk that a message holds, whether it is the sample's last, and with which error."""
    kinds = {"number": int, "text": str, "ids": list, "logprobs": list, "over": bool}
    if any(type(message.get(name)) is not kind for name, kind in kinds.items()):
        raise _GarbageError
    finish, error, cached = message.get("finish"), message.get("error"), message.get("cached")
    ids, logprobs = message["ids"], message["logprobs"]
    if (
        finish not in (None, "stop", "length")
        or not (error is None or isinstance(error, str))
        or not (cached is None or type(cached) is int)
        or not all(type(item) is int for item in ids)
        or not all(type(item) in (int, float) for item in logprobs)
    ):
        raise _GarbageError
    chunk = Chunk(message["text"], tuple(ids), tuple(logprobs), finish, cached)
    empty = not (ids or message["text"] or finish)
    return (None if empty else chunk), message["over"], error
