"""Engines that forget, hang or die, and trainers that are killed, with the real engine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from kit.grpo.rollout import SyncError
from kit.grpo.samplers import folder
from kit.grpo.samplers.watch import marked
from submission.engines.base import EngineError
from tests.kit.grpo.pairing import FREE, Pair
from tests.kit.grpo.processes import engine_of, gone
from tests.tiny import make_tiny_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "llama", max_positions=1024)


def test_a_load_that_does_nothing_and_an_engine_that_hangs(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kit.grpo.samplers.host.WORKER", "tests.kit.grpo.forgetful.Worker")
    before = engine_of(os.getpid())
    pair = Pair(checkpoint)
    try:
        pair.sampler.sync(pair.weights())  # what it holds already
        pair.change(0)
        with pytest.raises(SyncError, match="does not hold the trainer's weights"):
            pair.sampler.sync(pair.weights())
        engine = engine_of(os.getpid()) - before
        assert engine
        pair.sampler._timeout = 3.0
        for pid in engine:
            os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(SyncError, match="rank 0: the engine did not answer grpo_load within 3 s"):
            pair.sampler.sync(pair.weights())
        assert time.monotonic() - begun < 5
    finally:
        pair.sampler.close()
    assert gone(engine, 5)


def test_a_dead_engine_is_an_engine_error(checkpoint: Path) -> None:
    before = engine_of(os.getpid())
    pair = Pair(checkpoint)
    try:
        for pid in engine_of(os.getpid()) - before:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="rank 0: the engine is dead"):
            pair.sample(FREE)
        with pytest.raises(SyncError, match="rank 0"):
            pair.sampler.sync(pair.weights())
    finally:
        pair.sampler.close()
    assert gone(engine_of(os.getpid()) - before, 5)


@pytest.mark.parametrize("seconds", [0.5, 3.0, None], ids=["at once", "starting", "serving"])
def test_a_killed_trainer_leaves_no_engine(checkpoint: Path, tmp_path: Path, seconds: float | None) -> None:
    """Killed so many seconds after the engine's first process is there, or when it serves."""
    command = [sys.executable, "-m", "tests.kit.grpo.serving", str(checkpoint)]
    with (tmp_path / "log").open("w") as log:
        trainer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert trainer.stdout is not None
        while (line := trainer.stdout.readline()).strip() != ("serving" if seconds is None else "starting"):
            assert line, (tmp_path / "log").read_text()
        end = time.monotonic() + 300
        while not engine_of(trainer.pid) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(seconds or 0.0)
        mark = mark_of(trainer.pid)
        started = engine_of(trainer.pid) | set(marked(mark))
        assert started
    finally:
        trainer.kill()
        trainer.wait()
    assert gone(started, 10)
    assert marked(mark) == []
    left = f"{folder.PREFIX}{trainer.pid}-*"
    if seconds is None:
        assert list(folder.MEMORY.glob(left))
        folder.remove_abandoned(folder.MEMORY)
    assert not list(folder.MEMORY.glob(left))


def mark_of(trainer: int) -> str:
    """That a trainer's watch looks for: its last argument."""
    for child in psutil.Process(trainer).children():
        line = child.cmdline()
        if any(word.endswith("watch.py") for word in line):
            return str(line[-1])
    raise AssertionError("there is no watch")
