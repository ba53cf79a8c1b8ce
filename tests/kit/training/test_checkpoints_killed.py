"""The checkpoint store, killed for real at every point of a save and of a start."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.kit.training.stores import assert_is, fork, join, kill_at, latest, make_store, save, visible

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("damaged", [False, True])
def test_killed_at_every_point_of_a_save(
    tmp_path: Path, asynchronous: bool, damaged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL at each single access to the file system; `damaged`: the save replaces a broken folder."""
    start = tmp_path / "start"
    store = make_store(start)
    save(store, 1)
    save(store, 2)
    if damaged:
        save(store, 3)
        (start / "step-00000003" / "shard-00001-of-00001.safetensors").write_bytes(b"broken")
    store.close()
    found: list[int] = []
    for event in range(1, 1000):
        folder = tmp_path / f"kill{event}"
        shutil.copytree(start, folder)

        def work(folder: Path = folder, event: int = event) -> None:
            store = make_store(folder, keep_last=1, asynchronous=asynchronous)
            kill_at(event)
            save(store, 3)
            store.wait()

        code = join(fork(work))
        assert code in {0, -signal.SIGKILL}
        again = make_store(folder, keep_last=1)
        checkpoint = again.latest()
        assert checkpoint is not None
        assert_is(checkpoint, 3 if checkpoint.step == 3 else 2)
        found.append(checkpoint.step)
        assert all(name.startswith("step-") for name in visible(folder)), "leftovers of the killed save"
        save(again, 4)
        assert_is(again.latest(), 4)
        assert visible(folder) == ["step-00000004"]
        again.close()
        shutil.rmtree(folder)
        if code == 0:
            break
    else:
        pytest.fail("the save never ended")
    assert found == sorted(found), "later kills never lose more"
    assert len(found) > 20
    assert {2, 3} == set(found)
    if not damaged:
        assert caplog.records == [], "a kill never leaves a damaged checkpoint in place"


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_point_of_the_next_start(tmp_path: Path, stride: int) -> None:
    """A save was killed just before its last rename, over a damaged folder; then the start that mends it."""
    start = tmp_path / "start"
    store = make_store(start)
    save(store, 2)
    save(store, 3)
    store.close()
    shutil.copytree(start / "step-00000003", start / f".step-00000003.tmp-{'a' * 12}-7")
    (start / "step-00000003" / "manifest.json").unlink()
    shutil.copytree(start / "step-00000002", start / f".step-00000001.old-{'a' * 12}-6")
    for event in range(1, 200, stride):
        folder = tmp_path / f"kill{event}"
        shutil.copytree(start, folder)

        def work(folder: Path = folder, event: int = event) -> None:
            kill_at(event)
            make_store(folder)

        code = join(fork(work))
        assert_is(latest(folder), 3)
        assert visible(folder) == ["step-00000002", "step-00000003"]
        if code == 0:
            break
    assert event > 10


@pytest.mark.slow
def test_killed_at_random_times(tmp_path: Path) -> None:
    """Also inside the library's writes, which no hook sees: shards large enough to be hit."""
    size, chance, last = 400_000, random.Random(0), 0
    for _ in range(25):

        def work() -> None:
            store = make_store(tmp_path, keep_last=2, asynchronous=True)
            found = store.latest()
            step = found.step if found else 0
            while True:
                step += 1
                save(store, step, size=size)

        child = fork(work)
        time.sleep(chance.uniform(0.05, 0.6))
        os.kill(child, signal.SIGKILL)
        assert join(child) == -signal.SIGKILL
        checkpoint = latest(tmp_path)
        if checkpoint is not None:
            assert checkpoint.step >= last
            last = checkpoint.step
            assert_is(checkpoint, last, size=size)
    assert last > 3
