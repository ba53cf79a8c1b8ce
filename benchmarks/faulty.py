"""An engine that fails as it is told, for what watches engines and for whole contests. Runs in the engine's
process.

Its model is a folder, its tokens are bytes, and it writes `STORY`: a prompt ends with `END`, and what stands
behind that was written before, so that a sample which is taken up again goes on where it broke off.
`problem` of a request names faults, `kind@position,...`; each happens once, as a file in the folder tells. A
problem with `code` in its name is answered with a block of Python and `ANSWER` over and over.
A file `start` there holds faults of starts, one a line, of which each start takes the first.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

from submission.degrade import Serving
from submission.engines.base import Chunk, EngineError, FinishReason, Message, SampleRequest
from submission.settings import EngineSettings

END = 1
_COUNT = [f"{number} bottles; " for number in range(40)]
STORY = "".join([*_COUNT[:4], "\\boxed{7} ", *_COUNT[4:]])
CODE = "I count.\n```python\nprint(3 + 4)\n```\n```output"
ANSWER = "\\boxed{7} "
HOG_BYTES = 300 << 20


def _shout() -> None:
    sys.stdout.buffer.write(b"\x00\x00\x00\x08garbage\xff" * 1000)
    sys.stdout.flush()


_FAILURES: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "halt": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": lambda: time.sleep(600),
    "shout": _shout,
    "garbage": lambda: os.write(int(sys.argv[1]), b"\xff" * 64),
    "nonsense": lambda: os.write(int(sys.argv[1]), b"\x00\x00\x00\x0f" + b'{"number": "x"}'),
}


class ByteEncoder:
    """A token a byte."""

    def __init__(self, serving: Serving) -> None:
        self.max_context = serving.settings.max_model_len

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:  # noqa: ARG002
        return [*messages[-1].content.encode(), END]

    def count_tokens(self, text: str) -> int:
        return len(text.encode())

    def encode_text(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_markup(self, text: str) -> list[int]:
        return list(text.encode())

    def decode_text(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


class FaultyEngine:
    """Writes `STORY`, a byte every `pace` seconds, holding text back as engines do for stop strings."""

    def __init__(self, settings: EngineSettings, model: Path) -> None:
        self._settings = settings
        self._folder = model
        self._aborted: set[str] = set()
        self._hoard: list[bytearray] = []
        self._pace = 0.001

    async def start(self) -> None:
        with (self._folder / "starts").open("a") as starts:
            starts.write(f"{self._settings.max_num_seqs} {self._settings.max_model_len}\n")
        # Left behind in a session of its own, as a careless library might.
        subprocess.Popen(["sleep", "600"], start_new_session=True)  # noqa: ASYNC220, S607
        script = self._folder / "start"
        if script.exists():
            fault, _, rest = script.read_text().partition("\n")
            script.write_text(rest)
            await self._fail(fault)

    @property
    def max_context(self) -> int:
        return self._settings.max_model_len

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        faults = dict(fault.split("@")[::-1] for fault in request.problem.split(",") if "@" in fault)
        place = list(request.prompt).index(END) + 1
        written = len(request.prompt) - place
        whole = (CODE + 200 * ANSWER if "code" in request.problem else STORY).encode()
        text, held = "", max((len(stop) - 1 for stop in request.sampling.stop), default=0)
        for count in range(1, request.sampling.max_tokens + 1):
            await asyncio.sleep(self._pace)
            if request.request_id in self._aborted:
                return
            position = written + count
            fault = faults.get(str(position), "")
            if fault and self._first_time(f"{fault}@{position}"):
                await self._fail(fault)
            token = whole[position - 1]
            before = text[: max(0, len(text) - held)]
            text += chr(token)
            reason: FinishReason | None = None
            if any(text.endswith(stop) for stop in request.sampling.stop):
                stop = next(stop for stop in request.sampling.stop if text.endswith(stop))
                text, reason = text[: -len(stop)], "stop"
            elif count == request.sampling.max_tokens:
                reason = "length"
            shown = text if reason else text[: max(0, len(text) - held)]
            yield Chunk(shown[len(before) :], (token,), (-0.5,), reason, len(request.prompt))
            if reason:
                return

    def _first_time(self, name: str) -> bool:
        try:
            (self._folder / f"happened-{name}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    async def _fail(self, fault: str) -> None:
        if fault == "exit":
            print("last words \x1b[31m of the engine", flush=True)  # noqa: T201
            os._exit(7)
        if fault == "memory":
            raise MemoryError("out of memory as told")
        if fault == "refuse":
            raise EngineError("refused as told")
        if fault == "slow":
            self._pace *= 10
            return
        _FAILURES.get(fault, lambda: None)()
        if fault == "hog":
            self._hoard.append(bytearray(b"x") * HOG_BYTES)
        if fault in {"stall", "hog", "garbage", "nonsense", "wait"}:
            await asyncio.sleep(600)

    async def abort(self, request_id: str) -> None:
        self._aborted.add(request_id)

    async def close(self) -> None:
        (self._folder / "closed").touch()


def make_faulty(settings: EngineSettings, model: Path) -> FaultyEngine:
    """What the engine's process calls."""
    return FaultyEngine(settings, model)


FACTORY = "benchmarks.faulty:make_faulty"
