"""The supervised engine over real processes that fail in every way an engine can."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faulty import FACTORY, STORY, ByteEncoder
from submission.degrade import Serving
from submission.engines.base import Chunk, EngineError, Message, SampleRequest, Sampling
from submission.engines.child import EngineLostError
from submission.engines.supervised import SupervisedEngine
from submission.settings import EngineSettings, SupervisionSettings

TOKENS = 60


class Supervised:
    """An engine under supervision, what it reported, and the longest time its loop stood still."""

    def __init__(self, folder: Path, engine: SupervisedEngine, faults: list[tuple[str, str]]) -> None:
        self.folder, self.engine, self.faults = folder, engine, faults

    async def sample(self, fault: str = "", name: str = "s", **sampling: Any) -> list[Chunk]:
        prompt = self.engine.encode_chat([Message("user", "q")])
        request = SampleRequest(
            name, prompt, Sampling(**{"max_tokens": TOKENS, "seed": 1, **sampling}), problem=fault
        )
        return [chunk async for chunk in self.engine.generate(request)]

    @property
    def starts(self) -> list[str]:
        return (self.folder / "starts").read_text().splitlines()


def supervise(
    folder: Path,
    work: Callable[[Supervised], Coroutine[Any, Any, Any]],
    *,
    seconds_left: Callable[[], float] = lambda: 1e6,
    engine: dict[str, Any] | None = None,
    start: bool = True,
    **settings: Any,
) -> tuple[Any, Supervised]:
    """The result of `work` with a started engine that is closed afterwards; no process may be left."""
    faults: list[tuple[str, str]] = []

    async def run() -> tuple[Any, Supervised]:
        supervised = SupervisedEngine(
            Serving(
                folder, EngineSettings(**{"kind": "transformers", "max_model_len": 500, **(engine or {})})
            ),
            SupervisionSettings(**{"silence": 1.0, "start_limit": 20.0, **settings}),
            log=folder / "engine.log",
            seconds_left=seconds_left,
            on_fault=lambda what, details: faults.append((what, details)),
            factory=FACTORY,
            encoder=ByteEncoder,
        )
        tested = Supervised(folder, supervised, faults)
        try:
            if start:
                await supervised.start()
            return await asyncio.wait_for(work(tested), 60), tested
        finally:
            await supervised.close()
            await supervised.close()

    try:
        return asyncio.run(run())
    finally:
        assert processes_of(folder) == []


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line or working folder names the folder, and all that have an engine's mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"TEST_FOLDER={folder}".encode() in environment:
                found.append(int(entry.name))
    return found


@pytest.fixture(autouse=True)
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def tokens_of(chunks: list[Chunk]) -> bytes:
    return bytes(token for chunk in chunks for token in chunk.token_ids)


def test_a_sample_is_whole_and_closing_is_orderly(tmp_path: Path) -> None:
    chunks, tested = supervise(tmp_path, lambda tested: tested.sample())
    assert text_of(chunks) == STORY[:TOKENS] == tokens_of(chunks).decode()
    assert chunks[-1].finish_reason == "length" and {chunk.cached for chunk in chunks} == {2}
    assert [value for chunk in chunks for value in chunk.logprobs] == [-0.5] * TOKENS
    # A token a millisecond was written, and far fewer messages sent.
    assert len(chunks) < TOKENS / 4
    assert tested.faults == [] and (tmp_path / "closed").exists()


def test_a_sample_goes_on_in_the_next_engine(tmp_path: Path) -> None:
    chunks, tested = supervise(tmp_path, lambda tested: tested.sample("exit@30"))
    assert text_of(chunks) == STORY[:TOKENS] == tokens_of(chunks).decode()
    assert len(tested.starts) == 2 and {chunk.cached for chunk in chunks} == {2}
    told = "ended with exit code 7; its last lines:\nlast words  [31m of the engine"
    assert tested.faults == [("engine failed", told)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("kill", "ended by signal SIGKILL"),
        ("hang", "was silent for 1 s, with 3 samples"),
        ("halt", "was silent for 1 s"),
        ("garbage", "sent something that is no message"),
        ("nonsense", "sent something that is no message"),
        ("hog", "held more memory than it may: 0."),
    ],
)
def test_many_samples_go_on_whatever_the_failure(tmp_path: Path, fault: str, told: str) -> None:
    """Three samples are written when the engine fails at the 30th byte of one; readers see none of it."""

    async def three(tested: Supervised) -> list[list[Chunk]]:
        faults = (f"{fault}@30", "", "")
        return await asyncio.gather(*(tested.sample(f, f"s{n}") for n, f in enumerate(faults)))

    # A process that hogs is not silent: it is ended for its memory before.
    limits: dict[str, Any] = {"memory_gib": 0.28, "silence": 10.0} if fault == "hog" else {}
    samples, tested = supervise(tmp_path, three, **limits)
    for chunks in samples:
        assert (text_of(chunks), tokens_of(chunks).decode()) == (STORY[:TOKENS], STORY[:TOKENS])
        assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]
    assert tested.faults[0][0] == "engine failed" and told in tested.faults[0][1]
    assert len(tested.starts) == 2


@pytest.mark.slow
def test_what_is_printed_harms_nothing(tmp_path: Path) -> None:
    chunks, tested = supervise(tmp_path, lambda tested: tested.sample("shout@10"))
    assert text_of(chunks) == STORY[:TOKENS] and tested.faults == []
    assert b"garbage" in (tmp_path / "engine.log").read_bytes()


@pytest.mark.slow
def test_silence_without_samples_is_none(tmp_path: Path) -> None:
    async def wait(tested: Supervised) -> list[Chunk]:
        await asyncio.sleep(1.0)
        return await tested.sample()

    _, tested = supervise(tmp_path, wait, silence=0.4)
    assert tested.faults == []


@pytest.mark.slow
def test_a_stop_string_across_the_break_is_seen(tmp_path: Path) -> None:
    """The engine dies when it has written two characters of it, and shown none of them."""
    stop = "es; 3"
    end = STORY.index(stop)
    chunks, tested = supervise(tmp_path, lambda tested: tested.sample(f"exit@{end + 3}", stop=(stop,)))
    assert text_of(chunks) == STORY[:end] and chunks[-1].finish_reason == "stop"
    assert len(tested.starts) == 2


@pytest.mark.slow
def test_a_sample_is_lost_when_one_engine_too_many_dies(tmp_path: Path) -> None:
    async def twice(tested: Supervised) -> str:
        with pytest.raises(EngineLostError) as error:
            await tested.sample("exit@10,exit@20")
        assert text_of(await tested.sample()) == STORY[:TOKENS]
        return error.value.kind

    kind, tested = supervise(tmp_path, twice, resumes=1, engine={"max_num_seqs": 8})
    assert kind == "lost" and len(tested.starts) == 3
    assert [what for what, _ in tested.faults] == ["engine failed", "engine failed", "engine degraded"]


@pytest.mark.slow
def test_a_refused_sample_costs_no_engine(tmp_path: Path) -> None:
    async def refused(tested: Supervised) -> list[Chunk]:
        with pytest.raises(EngineError, match="refused as told") as error:
            await tested.sample("refuse@10")
        assert not isinstance(error.value, EngineLostError)
        return await tested.sample()

    _, tested = supervise(tmp_path, refused)
    assert tested.faults == [] and len(tested.starts) == 1


@pytest.mark.slow
@pytest.mark.parametrize("serving", [True, False])
def test_samples_can_be_ended(tmp_path: Path, serving: bool) -> None:
    """In each way: while they are written, and while they wait for the next engine, whose start hangs."""

    async def end(tested: Supervised) -> dict[str, float]:
        if not serving:
            (tmp_path / "start").write_text("wait")
            await asyncio.gather(tested.sample("exit@1"), return_exceptions=True)
            # Noted once nothing of the engine is left; the next one starts then.
            while not tested.faults:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.01)
        tasks = {
            name: asyncio.create_task(tested.sample(name=name, max_tokens=450))
            for name in ("abort", "cancel")
        }
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in tasks.values())
        seconds = {}
        for name, task in tasks.items():
            begun = time.monotonic()
            if name == "abort":
                await tested.engine.abort(name)
                assert all(chunk.finish_reason is None for chunk in await task)
            else:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            seconds[name] = time.monotonic() - begun
        await tested.engine.abort("never heard of")
        return seconds

    seconds, tested = supervise(tmp_path, end, resumes=0)
    assert max(seconds.values()) < 2  # the start that hangs takes 20
    assert len(tested.faults) == (not serving)


@pytest.mark.slow
def test_a_start_that_fails_asks_for_less_at_once(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("exit\nrefuse\nhang\n")
    chunks, tested = supervise(
        tmp_path, lambda t: t.sample(), engine={"max_num_seqs": 8, "max_model_len": 20_000}, start_limit=2.0
    )
    assert text_of(chunks) == STORY[:TOKENS]
    assert tested.starts == ["8 20000", "4 20000", "4 10000", "4 10000"]
    assert [what for what, _ in tested.faults] == ["engine failed", "engine degraded"] * 3
    details = [details for _, details in tested.faults]
    assert "did not start: the engine's process ended before it was ready" in details[0]
    assert details[1] == "max_num_seqs 8 -> 4"
    assert "did not start: EngineError: refused as told" in details[2]
    assert "did not start within 2 s" in details[4]
    assert tested.engine.max_context == 10_000 and tested.engine.serving.settings.enforce_eager


@pytest.mark.slow
def test_at_the_end_of_the_ladder_everything_fails_at_once(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("exit\n" * 9)

    async def hopeless(tested: Supervised) -> float:
        with pytest.raises(EngineError, match="with the least that can be asked for"):
            await tested.engine.start()
        begun = time.monotonic()
        with pytest.raises(EngineLostError):
            await anext(tested.engine.generate(SampleRequest("s", [1], Sampling())))
        return time.monotonic() - begun

    seconds, tested = supervise(tmp_path, hopeless, start=False, engine={"max_num_seqs": 1})
    assert seconds < 0.1 and tested.faults[-1][0] == "engine given up"
    assert len(tested.starts) == 2


@pytest.mark.slow
def test_no_engine_is_started_for_the_last_seconds(tmp_path: Path) -> None:
    async def late(tested: Supervised) -> None:
        with pytest.raises(EngineLostError, match="not started anew with 100 s left"):
            await tested.sample("exit@10")

    _, tested = supervise(tmp_path, late, seconds_left=lambda: 100.0, restart_seconds=120.0)
    assert [what for what, _ in tested.faults] == ["engine failed", "engine given up"]


@pytest.mark.slow
def test_a_sample_longer_than_the_shorter_context_ends_by_length(tmp_path: Path) -> None:
    """The next engine has room for 41 tokens behind the prompt, and up to 44 were written."""
    (tmp_path / "start").write_text("\nexit\n")

    async def long(tested: Supervised) -> list[Chunk]:
        prompt = tested.engine.encode_chat([Message("user", "q" * 8_150)])
        request = SampleRequest("s", prompt, Sampling(max_tokens=400), problem="exit@45")
        return [chunk async for chunk in tested.engine.generate(request)]

    engine = {"max_model_len": 9_000, "max_num_seqs": 1, "enforce_eager": True}
    chunks, tested = supervise(tmp_path, long, engine=engine)
    assert 41 <= len(tokens_of(chunks)) <= 44
    assert text_of(chunks) == tokens_of(chunks).decode() == STORY[: len(tokens_of(chunks))]
    assert chunks[-1].finish_reason == "length"
    assert tested.engine.max_context == 8_192


@pytest.mark.slow
def test_the_loop_is_never_held_up(tmp_path: Path) -> None:
    """Sixteen samples with long prompts are taken up again at once: no step of the loop takes 50 ms.

    Of this thread's own time: the test shares its cores with others.
    """

    async def crowd(tested: Supervised) -> float:
        longest = 0.0
        running = True

        async def look() -> None:
            nonlocal longest
            last = time.thread_time()
            while running:
                await asyncio.sleep(0.001)
                now = time.thread_time()
                longest, last = max(longest, now - last), now

        looking = asyncio.create_task(look())
        prompt = tested.engine.encode_chat([Message("user", "q" * 30_000)])
        requests = [
            SampleRequest(f"s{n}", prompt, Sampling(max_tokens=TOKENS), "exit@30" if not n else "")
            for n in range(16)
        ]

        async def read(request: SampleRequest) -> list[Chunk]:
            return [chunk async for chunk in tested.engine.generate(request)]

        samples = await asyncio.gather(*map(read, requests))
        assert all(text_of(chunks) == STORY[:TOKENS] for chunks in samples)
        running = False
        await looking
        return longest

    longest, tested = supervise(tmp_path, crowd, engine={"max_model_len": 40_000})
    assert len(tested.starts) == 2
    assert longest < 0.05
