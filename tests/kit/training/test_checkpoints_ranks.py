"""Several ranks writing one checkpoint, as real processes; some die, some are late."""

import functools
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.training.checkpoints import CheckpointError, CheckpointStore
from tests.kit.training.stores import assert_is, fork, join, kill_at, latest, make_store, save, visible

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")


def two_ranks(
    folder: Path, attempt: str, step: int, works: dict[int, Callable[[], None]], **more: Any
) -> list[int]:
    """Save `step` with two processes; `works` is called before a rank's save. Exit codes."""

    def work(rank: int) -> None:
        store = make_store(folder, rank=rank, world_size=2, attempt=attempt, **more)
        works.get(rank, lambda: None)()
        save(store, step, rank)
        store.wait()

    children = []
    for rank in range(2):
        children.append(fork(lambda rank=rank: work(rank)))  # type: ignore[misc]
        if rank == 0:
            time.sleep(0.05)  # rank 0 tidies up before the others start, as the barrier has it
    return [join(child) for child in children]


def test_two_ranks_write_one_checkpoint(tmp_path: Path) -> None:
    assert two_ranks(tmp_path, "a", 5, {1: lambda: time.sleep(0.3)}) == [0, 0]
    found = latest(tmp_path, world_size=2, attempt="b")
    assert_is(found, 5, world_size=2)
    assert found is not None
    for rank in range(2):
        state = found.rank_state(rank)
        assert state is not None
        assert state["random"].tolist() == [5, rank]


def test_another_number_of_ranks_reads_the_same_tensors(tmp_path: Path) -> None:
    assert two_ranks(tmp_path, "a", 5, {}) == [0, 0]
    found = latest(tmp_path)
    assert_is(found, 5, world_size=2)
    assert found is not None
    assert found.rank_state(0) is None
    assert found.world_size == 2


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_killed_at_every_point(tmp_path: Path, victim: int) -> None:
    start = tmp_path / "start"
    assert two_ranks(start, "first", 1, {}) == [0, 0]
    found = []
    for event in range(1, 1000):
        folder = tmp_path / f"kill{event}"
        shutil.copytree(start, folder)
        works: dict[int, Callable[[], None]] = {victim: functools.partial(kill_at, event)}
        # Where the time is too short for a slow machine, one more event is tried.
        codes = two_ranks(folder, "second", 2, works, keep_last=1, commit_timeout=0.4)
        checkpoint = latest(folder, world_size=2, attempt="look")
        assert checkpoint is not None
        assert_is(checkpoint, 2 if checkpoint.step == 2 else 1, world_size=2)
        if codes == [0, 0]:
            break
        found.append(checkpoint.step)
        # The same step again, from the next start of the run.
        assert two_ranks(folder, "third", 2, {}, keep_last=1) == [0, 0]
        assert_is(latest(folder, world_size=2, attempt="look"), 2, world_size=2)
        assert visible(folder) == ["step-00000002"]
        shutil.rmtree(folder)
    assert 1 in found


def test_leftovers_of_a_killed_start_never_mix_with_a_new_write(tmp_path: Path) -> None:
    """Rank 1 had written and reported other values for the same step before the run was killed."""

    def old() -> None:
        store = make_store(tmp_path, rank=1, world_size=2, attempt="old", commit_timeout=60.0)
        store.save(5, {"rank1.old": torch.ones(3)}, {}, {}, None)

    child = fork(old)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob(".step-*/rank-00002-of-00002.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    join(child)
    assert two_ranks(tmp_path, "new", 5, {1: lambda: time.sleep(0.5)}) == [0, 0]
    assert_is(latest(tmp_path, world_size=2, attempt="look"), 5, world_size=2)


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    save(store := make_store(tmp_path), 1)
    store.close()
    store = make_store(tmp_path, world_size=3, attempt="a", commit_timeout=0.3, asynchronous=True)
    save(store, 2)
    with pytest.raises(CheckpointError, match=r"step 2 .* nothing came from rank 1, 2 within 0.3 s"):
        store.wait()
    store.wait()  # an error is told once
    assert_is(store.latest(), 1)


def test_a_rank_may_begin_its_next_share_while_rank_0_tidies_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"world_size": 2, "attempt": "a", "asynchronous": True, "keep_last": 1}
    first = make_store(tmp_path, **settings)
    second = make_store(tmp_path, rank=1, **settings)
    tidy = CheckpointStore._retain

    def late(store: CheckpointStore, step: int) -> None:
        """Rank 0 is slow to delete; rank 1 has seen the commit and is at the next step already."""
        if step == 1:
            second.wait()
            save(second, 2, 1)
            until = time.monotonic() + 10
            while not list(tmp_path.glob(".step-00000002.tmp-*/rank-00002-of-00002.json")):
                assert time.monotonic() < until
                time.sleep(0.01)
        tidy(store, step)

    monkeypatch.setattr(CheckpointStore, "_retain", late)
    save(first, 1)
    save(second, 1, 1)
    first.wait()
    save(first, 2)
    first.wait()
    second.wait()
    assert_is(first.latest(), 2, world_size=2)
    assert visible(tmp_path) == ["step-00000002"]


def test_a_rank_that_fails_ends_the_wait_of_the_others(tmp_path: Path) -> None:
    first = make_store(tmp_path, world_size=2, attempt="a", asynchronous=True, commit_timeout=60.0)
    second = make_store(tmp_path, rank=1, world_size=2, attempt="a", asynchronous=True, commit_timeout=60.0)
    began = time.monotonic()
    save(first, 1)
    with pytest.raises(CheckpointError, match="No space left"):
        second.save(1, {"large": torch.zeros(1).expand(2**44)}, {}, {}, None)
    with pytest.raises(CheckpointError, match="rank 1: No space left"):
        first.wait()
    assert time.monotonic() - began < 20
    # Both go on with the next step.
    save(first, 2, 0)
    save(second, 2, 1)
    first.wait()
    second.wait()
    assert_is(first.latest(), 2, world_size=2)
    assert visible(tmp_path) == ["step-00000002"]


def test_what_a_rank_has_reported_stays_when_it_gives_up_waiting(tmp_path: Path) -> None:
    """Rank 0 may be committing it at that very moment."""
    second = make_store(tmp_path, rank=1, world_size=2, attempt="a", commit_timeout=0.2)
    with pytest.raises(CheckpointError, match=r"rank 0 did not commit it within 0\.2 s"):
        save(second, 1, 1)
    (shard,) = tmp_path.glob(".step-*/shard-00002-of-00002.safetensors")
    assert shard.stat().st_size > 0


def test_two_ranks_with_the_same_name_are_refused(tmp_path: Path) -> None:
    first = make_store(tmp_path, world_size=2, attempt="a", asynchronous=True, commit_timeout=5.0)
    second = make_store(tmp_path, rank=1, world_size=2, attempt="a", asynchronous=True, commit_timeout=5.0)
    for store in (first, second):
        store.save(1, {"same": torch.zeros(2)}, {}, {}, None)
    with pytest.raises(CheckpointError, match="ranks 0 and 1 both wrote tensor 'same'"):
        first.wait()
    with pytest.raises(CheckpointError):
        second.wait()
