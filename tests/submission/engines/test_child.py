"""The engine's process and its warden: nothing of them is left, whatever death their parent dies."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faulty import FACTORY
from submission.degrade import Serving
from submission.engines.base import Chunk, EngineError, Message, SampleRequest, Sampling
from submission.engines.child import EngineLostError, EngineProcess
from submission.engines.supervised import SupervisedEngine
from submission.processes import children
from submission.settings import EngineSettings, SupervisionSettings
from tests.submission.engines.test_supervised import processes_of
from tests.tiny import make_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[3]
LEFT_SECONDS = 10.0
PARENT = """
import asyncio, json, sys
from pathlib import Path
from submission.degrade import Serving
from submission.engines.base import Message, SampleRequest, Sampling
from submission.engines.supervised import SupervisedEngine
from submission.settings import EngineSettings, SupervisionSettings
from benchmarks.faulty import ByteEncoder

async def main():
    folder, model, factory, settings = sys.argv[1:]
    more = {"encoder": ByteEncoder} if "faulty" in factory else {}
    engine = SupervisedEngine(
        Serving(Path(model), EngineSettings(**json.loads(settings))),
        SupervisionSettings(),
        log=Path(folder, "engine.log"),
        factory=factory,
        **more,
    )
    starting = asyncio.create_task(engine.start())
    print("begun", flush=True)
    await starting
    print("ready", flush=True)
    prompt = engine.encode_chat([Message("user", "q")])
    async for _ in engine.generate(SampleRequest("s", prompt, Sampling(max_tokens=400, ignore_eos=True))):
        print("writes", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))


def parent_of_an_engine(
    folder: Path, model: Path, factory: str = FACTORY, settings: str = '{"kind": "transformers"}'
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), str(model), factory, settings],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(parent: "subprocess.Popen[str]", line: str) -> None:
    assert parent.stdout is not None
    for said in parent.stdout:
        if said.strip() == line:
            return
    pytest.fail(f"the parent ended without {line!r}")


def assert_nothing_left(folder: Path) -> None:
    deadline = time.monotonic() + LEFT_SECONDS
    while left := processes_of(folder):
        if time.monotonic() > deadline:
            names = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
            pytest.fail(f"left {LEFT_SECONDS:.0f} s after the parent's death: {names}")
        time.sleep(0.05)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.mark.parametrize(
    "moment", ["writes", pytest.param(0.5, marks=pytest.mark.slow), pytest.param(3.0, marks=pytest.mark.slow)]
)
def test_a_killed_parent_leaves_nothing(tmp_path: Path, moment: float | str) -> None:
    if moment == 3.0:  # the start hangs, with all processes up
        (tmp_path / "start").write_text("hang")
    parent = parent_of_an_engine(tmp_path, tmp_path)
    if isinstance(moment, str):
        wait_for(parent, moment)
        assert len(processes_of(tmp_path)) >= 4  # parent, warden, engine, and what the engine started
    else:
        wait_for(parent, "begun")
        time.sleep(moment)
    kill(parent.pid)
    parent.wait()
    assert_nothing_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["stopped engine", "warden", "warden and parent", "group", "SIGTERM"])
def test_other_deaths_leave_nothing(tmp_path: Path, victims: str) -> None:
    parent = parent_of_an_engine(tmp_path, tmp_path)
    wait_for(parent, "writes")
    (warden,) = children(parent.pid)
    (engine,) = children(warden)
    match victims:
        case "stopped engine":
            kill(engine, signal.SIGSTOP)
        case "warden":  # the parent sees it, sweeps, and starts another engine
            kill(warden)
            time.sleep(2.5)
            assert children(parent.pid) != [warden] and children(parent.pid)
        case "warden and parent":
            # What the engine left in another session follows nobody: only real engines' processes do.
            for pid in children(engine):
                kill(pid)
            kill(warden)
        case "group":
            os.killpg(parent.pid, signal.SIGKILL)
        case "SIGTERM":
            kill(parent.pid, signal.SIGTERM)
    kill(parent.pid)
    parent.wait()
    assert_nothing_left(tmp_path)


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 600))


async def read(
    engine: Any, name: str = "s", on_chunk: Callable[[], None] = lambda: None, **sampling: Any
) -> list[Chunk]:
    prompt = engine.encode_chat([Message("user", "What is 1 + 1?")])
    request = SampleRequest(name, prompt, Sampling(**{"max_tokens": 40, "seed": 1, **sampling}))
    chunks = []
    async for chunk in engine.generate(request):
        chunks.append(chunk)
        on_chunk()
    return chunks


@pytest.mark.slow
def test_a_recording_is_played_in_the_process(tmp_path: Path) -> None:
    """The real engine factory, without any model."""
    from submission.engines.replay import Recorded, write_recording

    write_recording(tmp_path / "r.jsonl", {"p": [Recorded("thinking \\boxed{5}", 80, 0.2)]})
    settings = EngineSettings(kind="replay", recording=tmp_path / "r.jsonl")

    async def play() -> tuple[str, int]:
        engine = SupervisedEngine(Serving(None, settings), SupervisionSettings(), log=tmp_path / "engine.log")
        await engine.start()
        assert engine.count_tokens("12345678") == 2
        chunks = [c async for c in engine.generate(SampleRequest("r", [1], Sampling(), "p"))]
        with pytest.raises(EngineError, match="no sample of problem 'q'"):
            await anext(engine.generate(SampleRequest("r", [1], Sampling(), "q")))
        await engine.close()
        return "".join(chunk.text for chunk in chunks), sum(len(chunk.token_ids) for chunk in chunks)

    assert run(play()) == ("thinking \\boxed{5}", 80)
    assert processes_of(tmp_path) == []


@pytest.mark.slow
def test_a_process_that_cannot_make_its_engine_tells_why(tmp_path: Path) -> None:
    async def start() -> None:
        serving = Serving(tmp_path, EngineSettings(kind="transformers"))
        process = EngineProcess(
            serving, log=tmp_path / "engine.log", factory="submission.engines:make_nothing"
        )
        try:
            with pytest.raises(EngineError, match=r"AttributeError.*make_nothing"):
                await process.start()
        finally:
            await process.kill()
        with pytest.raises(EngineLostError):
            await anext(process.generate(SampleRequest("s", [1], Sampling())))
        assert "Traceback" in process.tail() or "AttributeError" in process.tail()

    run(start())
    assert processes_of(tmp_path) == []


@pytest.mark.slow
def test_a_log_that_cannot_be_written_is_an_engine_error(tmp_path: Path) -> None:
    async def start() -> None:
        serving = Serving(tmp_path, EngineSettings(kind="transformers"))
        process = EngineProcess(serving, log=tmp_path / "no" / "engine.log", factory=FACTORY)
        with pytest.raises(EngineError, match="cannot be started"):
            await process.start()
        await process.kill()

    run(start())


@pytest.mark.slow
def test_vllm_is_killed_and_goes_on(tmp_path: Path) -> None:
    """Greedy tokens are the same with and without a death in the middle; nothing is left at the end."""
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny", max_positions=1024)
    settings = EngineSettings(max_model_len=900, max_num_seqs=8, cpu_kv_cache_gib=1)
    faults: list[tuple[str, str]] = []
    greedy: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "max_tokens": 700}

    async def work() -> tuple[list[Chunk], list[Chunk], float]:
        engine = SupervisedEngine(
            Serving(checkpoint, settings),
            SupervisionSettings(),
            log=tmp_path / "engine.log",
            on_fault=lambda what, details: faults.append((what, details)),
        )
        await engine.start()
        assert engine.max_context == 900 and engine.decode_text(engine.encode_text("abc")) == "abc"
        whole = await read(engine, **greedy)
        (warden,) = [pid for pid in children(os.getpid()) if b"warden" in command_of(pid)]
        victims = children(warden)
        broken = await read(engine, "again", lambda: kill(victims.pop()) if victims else None, **greedy)
        begun = time.monotonic()
        await engine.close()
        return whole, broken, time.monotonic() - begun

    whole, broken, seconds = run(work())
    assert [what for what, _ in faults] == ["engine failed"]
    for chunks in (whole, broken):
        ids = [token for chunk in chunks for token in chunk.token_ids]
        assert len(ids) == sum(len(chunk.logprobs) for chunk in chunks) == 700
        assert ids == [token for chunk in whole for token in chunk.token_ids]
    assert seconds < 20
    assert processes_of(tmp_path) == []


@pytest.mark.slow
def test_vllm_leaves_nothing_even_without_its_warden(tmp_path: Path) -> None:
    """It starts a process of its own, which does not watch its parent by itself."""
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny", max_positions=1024)
    settings = '{"kind": "vllm", "max_model_len": 900, "max_num_seqs": 8, "cpu_kv_cache_gib": 1}'
    parent = parent_of_an_engine(tmp_path, checkpoint, "submission.engines:make_engine", settings)
    wait_for(parent, "writes")
    kill(children(parent.pid)[0])
    kill(parent.pid)
    parent.wait()
    assert_nothing_left(tmp_path)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
