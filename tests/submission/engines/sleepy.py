"""`FaultyEngine` that sleeps: falling asleep and waking each take the first line of a file `switch` in its
folder as their fault. Runs in the engine's process."""

import asyncio
import os
from pathlib import Path

from benchmarks.faulty import FaultyEngine
from submission.engines.base import EngineError, MakeRoom
from submission.settings import EngineSettings

FACTORY = "tests.submission.engines.sleepy:make_sleepy"


class SleepyEngine(FaultyEngine):
    """Notes in a file `switches` what it was told to do."""

    def hindrance(self) -> str:
        return ""

    def share(self, make_room: MakeRoom) -> None:
        raise AssertionError("the process asks nobody for room")

    async def sleep(self) -> None:
        await self._switch("sleep")

    async def wake(self) -> None:
        await self._switch("wake")

    async def _switch(self, what: str) -> None:
        with (self._folder / "switches").open("a") as switches:
            switches.write(f"{what}\n")
        script = self._folder / "switch"
        fault, _, rest = (script.read_text() if script.exists() else "").partition("\n")
        script.write_text(rest)
        if fault == "refuse":
            raise EngineError("refused as told")
        if fault == "exit":
            os._exit(7)
        if fault == "hang":
            await asyncio.sleep(600)


def make_sleepy(settings: EngineSettings, model: Path) -> SleepyEngine:
    """What the engine's process calls."""
    return SleepyEngine(settings, model)
