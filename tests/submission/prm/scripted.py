"""An engine and a scorer that share a GPU on a virtual clock, and write down what they did."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from submission.engines.base import Chunk, EngineError, MakeRoom, SampleRequest
from submission.engines.replay import Recorded, ReplayEngine


class Gpu:
    """What happened on it, and who holds it: two at a time is a mistake of whoever let them.

    Args:
        seconds: of a step, by its name.
        faults: what a step raises, by its name; each once.
    """

    def __init__(
        self, seconds: Mapping[str, float] | None = None, faults: Mapping[str, BaseException] | None = None
    ) -> None:
        self.seconds = dict(seconds or {})
        self.faults = dict(faults or {})
        self.events: list[str] = []
        self.holders: set[str] = set()

    async def step(self, name: str) -> None:
        await asyncio.sleep(self.seconds.get(name, 0.0))
        if name in self.faults:
            self.events.append(f"{name}: failed")
            raise self.faults.pop(name)
        self.events.append(name)

    def take(self, who: str) -> None:
        assert self.holders <= {who}, f"{who} wakes beside {self.holders}"
        self.holders.add(who)


class SleepyEngine(ReplayEngine):
    """Recorded samples, and sleep. An engine that fails at it is started anew, as a supervised one is."""

    def __init__(self, gpu: Gpu, recording: Mapping[str, Sequence[Recorded]] | None = None) -> None:
        super().__init__(recording or {})
        self.gpu = gpu
        self.make_room: MakeRoom | None = None
        self.writing = 0
        self.awake = asyncio.Event()

    async def start(self) -> None:
        await self.gpu.step("engine starts")
        self.gpu.take("engine")
        self.awake.set()

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        self.writing += 1
        try:
            await self.awake.wait()
            async for chunk in super().generate(request):
                assert self.awake.is_set(), "a sample is written while the engine sleeps"
                yield chunk
        finally:
            self.writing -= 1

    def hindrance(self) -> str:
        return f"{self.writing} samples are being written" if self.writing else ""

    def share(self, make_room: MakeRoom) -> None:
        self.make_room = make_room

    async def sleep(self) -> None:
        assert not self.writing
        self.awake.clear()
        await self._switch("engine sleeps")
        self.gpu.holders.discard("engine")

    async def wake(self) -> None:
        if not self.awake.is_set():
            await self._switch("engine wakes")
            self.gpu.take("engine")
            self.awake.set()

    async def _switch(self, step: str) -> None:
        try:
            await self.gpu.step(step)
        except EngineError:
            self.gpu.holders.discard("engine")
            assert self.make_room is not None
            await self.make_room(False)
            await self.start()
            raise

    async def close(self) -> None:
        self.gpu.events.append("engine closes")


class SleepyScorer:
    """Scores by what a text holds."""

    def __init__(self, gpu: Gpu, values: Mapping[str, float] | None = None) -> None:
        self.gpu = gpu
        self.values = dict(values or {})
        self.batches: list[list[str]] = []

    async def start(self) -> None:
        await self.gpu.step("PRM starts")
        self.gpu.take("PRM")

    async def sleep(self) -> None:
        await self.gpu.step("PRM sleeps")
        self.gpu.holders.discard("PRM")

    async def wake(self) -> None:
        await self.gpu.step("PRM wakes")
        self.gpu.take("PRM")

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:
        assert self.gpu.holders == {"PRM"}
        self.batches.append(list(completions))
        await self.gpu.step("PRM scores")
        return [[next((v for mark, v in self.values.items() if mark in text), 0.5)] for text in completions]

    async def close(self) -> None:
        self.gpu.events.append("PRM closes")
        self.gpu.holders.discard("PRM")
