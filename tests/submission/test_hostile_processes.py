"""Processes that stand still, cannot be started, or share a full memory with the contest's own."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from submission.sandbox import Sandbox
from submission.settings import SandboxSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    with Sandbox(SandboxSettings(workers=2, memory_mb=512, preload=("math",))) as opened:
        yield opened


def test_a_sandbox_that_cannot_start_anew_says_so_at_once(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls used to wait two minutes each for a server that nobody started."""
    monkeypatch.setattr("submission.sandbox.client._PAUSES", (0.01,))
    session = sandbox.session()
    assert session.run_sync("1 + 1").value == "2"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert sandbox._server is not None
    sandbox._server.kill()
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="does not start any more: FileNotFoundError"):
            while not session.run_sync("1 + 1").value:
                pass
    assert time.monotonic() - begun < 10


def test_a_sandbox_is_tried_again_after_a_moments_trouble(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("submission.sandbox.client._PAUSES", (0.5, 0.5, 0.5))
    session = sandbox.session()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "later"))
    assert sandbox._server is not None
    sandbox._server.kill()
    time.sleep(0.3)
    (tmp_path / "later").mkdir()
    while not (result := session.run_sync("1 + 1")).value:
        assert result.killed
    assert result.value == "2"


def test_a_sandbox_that_stands_still_does_not_stop_the_loop(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pipe is full, and the loop would wait in a write until the contest is over."""
    monkeypatch.setattr("submission.sandbox.process._WRITE_SECONDS", 0.3)
    sessions = [sandbox.session() for _ in range(2)]
    assert sessions[0].run_sync("1 + 1").value == "2"
    assert sandbox._server is not None
    os.kill(sandbox._server.pid, signal.SIGSTOP)
    long = f"x = '{'数' * 99_000}'"

    async def work() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*(one.run(long, 1) for one in sessions)), 30)

    assert any(result.killed for result in asyncio.run(work()))
    assert sessions[1].run_sync("2 + 2").value == "4"


def test_the_kernel_ends_an_engine_before_the_contest() -> None:
    import socket

    control, wardens = socket.socketpair()
    channel, theirs = socket.socketpair()
    show = "import sys; print(open('/proc/self/oom_score_adj').read())"
    numbers = (os.getpid(), wardens.fileno(), 0, theirs.fileno())
    with control, wardens, channel, theirs:
        done = subprocess.run(
            [sys.executable, "-m", "submission.warden", *map(str, numbers), sys.executable, "-c", show],
            pass_fds=(wardens.fileno(), theirs.fileno()),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    own = int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))
    assert int(done.stdout) == max(own, 500)
