"""A supervised engine that sleeps and wakes in its own process, and what becomes of it when it does not."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faulty import FACTORY as CANNOT
from benchmarks.faulty import STORY, ByteEncoder
from submission.degrade import Serving
from submission.engines.base import EngineError, Message, SampleRequest, Sampling, SleepingEngine
from submission.engines.supervised import SupervisedEngine
from submission.settings import EngineSettings, SupervisionSettings
from tests.submission.engines.sleepy import FACTORY
from tests.submission.engines.test_supervised import processes_of, text_of

TOKENS = 60


class Sleepy:
    """A supervised engine, what it reported, and when it asked for room."""

    def __init__(self, folder: Path, factory: str) -> None:
        self.folder = folder
        self.faults: list[tuple[str, str]] = []
        self.asked: list[bool] = []
        self.ends_somebody = False
        self.engine = SupervisedEngine(
            Serving(folder, EngineSettings(kind="transformers", max_model_len=500, max_num_seqs=8)),
            SupervisionSettings(start_limit=20.0),
            log=folder / "engine.log",
            on_fault=lambda what, details: self.faults.append((what, details)),
            factory=factory,
            encoder=ByteEncoder,
        )
        self.engine.share(self.make_room)

    async def make_room(self, failed: bool) -> bool:
        self.asked.append(failed)
        return self.ends_somebody

    async def sample(self, fault: str = "", name: str = "s") -> str:
        request = SampleRequest(
            name,
            self.engine.encode_chat([Message("user", "q")]),
            Sampling(max_tokens=TOKENS, seed=1),
            problem=fault,
        )
        return text_of([chunk async for chunk in self.engine.generate(request)])

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()


@pytest.fixture(autouse=True)
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))


def play(
    folder: Path,
    work: Callable[[Sleepy], Coroutine[Any, Any, None]],
    *,
    factory: str = FACTORY,
    start: bool = True,
) -> Sleepy:
    async def run() -> Sleepy:
        sleepy = Sleepy(folder, factory)
        try:
            if start:
                await sleepy.engine.start()
            await asyncio.wait_for(work(sleepy), 60)
        finally:
            await sleepy.engine.close()
        return sleepy

    try:
        return asyncio.run(run())
    finally:
        assert processes_of(folder) == []


def test_samples_wait_until_the_engine_is_awake(tmp_path: Path) -> None:
    async def work(sleepy: Sleepy) -> None:
        engine = sleepy.engine
        assert isinstance(engine, SleepingEngine) and engine.hindrance() == ""
        first = asyncio.create_task(sleepy.sample(name="first"))
        await asyncio.sleep(0.02)
        assert engine.hindrance() == "1 samples are being written"
        with pytest.raises(AssertionError):
            await engine.sleep()
        assert await first == STORY[:TOKENS]
        await engine.sleep()
        waiting = asyncio.create_task(sleepy.sample(name="second"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await engine.wake()
        assert await waiting == STORY[:TOKENS]
        await engine.wake()  # nobody sleeps

    sleepy = play(tmp_path, work)
    assert sleepy.lines("switches") == ["sleep", "wake"] and len(sleepy.lines("starts")) == 1
    assert sleepy.faults == [] and sleepy.asked == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "fault", "told"),
    [
        ("sleep", "refuse", "did not sleep: refused as told"),
        pytest.param("sleep", "exit", "ended with exit code 7", marks=pytest.mark.slow),
        pytest.param("sleep", "hang", "did not sleep: not within 1 s", marks=pytest.mark.slow),
        pytest.param("wake", "refuse", "did not wake: refused as told", marks=pytest.mark.slow),
        pytest.param("wake", "exit", "ended with exit code 7", marks=pytest.mark.slow),
        pytest.param("wake", "hang", "did not wake: not within 1 s", marks=pytest.mark.slow),
    ],
)
def test_an_engine_that_does_not_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, fault: str, told: str
) -> None:
    monkeypatch.setattr("submission.engines.supervised.SWITCH_SECONDS", 1.0 if fault == "hang" else 20.0)
    (tmp_path / "switch").write_text("\n" * (step == "wake") + fault)

    async def work(sleepy: Sleepy) -> None:
        if step == "wake":
            await sleepy.engine.sleep()
        with pytest.raises(EngineError, match="did not " + step):
            await getattr(sleepy.engine, step)()
        assert await sleepy.sample() == STORY[:TOKENS]
        await sleepy.engine.wake()
        await sleepy.engine.sleep()  # the new one can as well
        await sleepy.engine.wake()

    sleepy = play(tmp_path, work)
    assert sleepy.lines("starts") == ["8 500"] * 2 and sleepy.asked == [False]
    (failed,) = sleepy.faults
    assert failed[0] == "engine failed" and told in failed[1]


@pytest.mark.slow
def test_an_engine_that_dies_asleep_is_started_anew_once_there_is_room(tmp_path: Path) -> None:
    async def work(sleepy: Sleepy) -> None:
        await sleepy.engine.sleep()
        assert sleepy.engine._process is not None
        await sleepy.engine._process.kill("was killed by the test")
        assert await sleepy.sample() == STORY[:TOKENS]
        await sleepy.engine.wake()
        assert await sleepy.sample() == STORY[:TOKENS]

    sleepy = play(tmp_path, work)
    assert sleepy.asked == [False] and sleepy.lines("switches") == ["sleep"]


@pytest.mark.slow
@pytest.mark.parametrize("ends", [True, False])
def test_less_is_asked_for_only_where_nobody_shared_the_gpu(tmp_path: Path, ends: bool) -> None:
    """A start that fails beside a PRM is tried again as it was once the PRM is gone."""
    (tmp_path / "start").write_text("refuse\n")

    async def work(sleepy: Sleepy) -> None:
        sleepy.ends_somebody = ends
        await sleepy.engine.start()
        assert await sleepy.sample() == STORY[:TOKENS]

    sleepy = play(tmp_path, work, start=False)
    assert sleepy.asked == [True]
    assert sleepy.lines("starts") == (["8 500", "8 500"] if ends else ["8 500", "4 500"])


@pytest.mark.slow
def test_an_engine_without_sleep_is_told_of(tmp_path: Path) -> None:
    async def work(sleepy: Sleepy) -> None:
        with pytest.raises(EngineError, match="FaultyEngine cannot sleep"):
            await sleepy.engine.sleep()

    play(tmp_path, work, factory=CANNOT)
