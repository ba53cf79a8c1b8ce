"""The checkpoint store: real processes, killed for real, on real files."""

import errno
import functools
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.training.checkpoints import Checkpoint, CheckpointError, CheckpointStore

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

IDENTITY = {"recipe": "abc", "code": "1"}


def make_store(folder: Path, **settings: Any) -> CheckpointStore:
    """A synchronous store of one rank that keeps everything, unless told otherwise."""
    chosen: dict[str, Any] = {
        "rank": 0,
        "world_size": 1,
        "identity": IDENTITY,
        "keep_last": 100,
        "keep_best": 0,
        "lower_is_better": True,
        "asynchronous": False,
        "commit_timeout": 20.0,
    }
    return CheckpointStore(folder, **(chosen | settings))


def make_tensors(step: int, rank: int = 0, size: int = 200) -> dict[str, Any]:
    """Named tensors that are a function of step and rank, of all dtypes and awkward layouts."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    base = torch.randn(size, 3, generator=generator)
    made = {
        "weight": base,
        "transposed": base.T,
        "slice": base[1:3],
        "double": base.double() / 3,
        "half": base.bfloat16(),
        "ids": torch.randint(-(2**62), 2**62, (7,), generator=generator),
        "bytes": torch.randint(0, 256, (5000,), generator=generator, dtype=torch.uint8),
        "flag": torch.tensor([True, False]),
        "count": torch.tensor(step),
        "empty": torch.empty(0, 4),
        "special": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]),
    }
    return {f"rank{rank}.{name}": tensor for name, tensor in made.items()}


def bits(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Everything about a tensor that equality of floats would hide."""
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return str(tensor.dtype), tuple(tensor.shape), data


def save(store: CheckpointStore, step: int, rank: int = 0, **more: Any) -> None:
    store.save(
        step,
        make_tensors(step, rank, more.get("size", 200)),
        {"step": step, "seen": [1, 2.5, None, "x"]},
        {"random": torch.tensor([step, rank])},
        more.get("metric"),
    )


def assert_is(checkpoint: Checkpoint | None, step: int, world_size: int = 1, size: int = 200) -> None:
    assert checkpoint is not None
    assert checkpoint.step == step == checkpoint.state["step"]
    assert checkpoint.state["seen"] == [1, 2.5, None, "x"]
    expected = {name: t for rank in range(world_size) for name, t in make_tensors(step, rank, size).items()}
    assert checkpoint.names() == sorted(expected)
    found = checkpoint.tensors()
    assert {name: bits(found[name]) for name in found} == {name: bits(t) for name, t in expected.items()}


def latest(folder: Path, **settings: Any) -> Checkpoint | None:
    """What a new start of the run finds."""
    store = make_store(folder, **settings)
    try:
        return store.latest()
    finally:
        store.close()


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child process; its id."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        work()
    except BaseException:  # noqa: BLE001 - a child of pytest must not go on as pytest
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def join(child: int) -> int:
    """Exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(event: int) -> None:
    """From now on this process dies at its `event`-th access to the file system that Python sees."""
    seen = 0

    def hook(name: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if name == "open" or name.startswith(("os.", "shutil.")):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_is_saved_is_read_bit_for_bit(tmp_path: Path, asynchronous: bool) -> None:
    store = make_store(tmp_path / "run", asynchronous=asynchronous)
    assert store.latest() is None
    save(store, 10, metric=0.5)
    store.wait()
    found = store.latest()
    assert_is(found, 10)
    assert found is not None
    assert found.metric == 0.5
    state = found.rank_state(0)
    assert state is not None
    assert state["random"].tolist() == [10, 0]
    assert visible(tmp_path / "run") == ["step-00000010"]
    with pytest.raises(KeyError):
        found.tensors()["nothing"]


def test_an_asynchronous_save_does_not_see_later_changes(tmp_path: Path) -> None:
    store = make_store(tmp_path, asynchronous=True)
    tensor = torch.zeros(500_000)
    rows: list[Any] = [1]
    store.save(1, {"w": tensor}, {"rows": rows}, {"r": tensor}, None)
    tensor.fill_(7)
    rows.append(2)
    store.wait()
    found = store.latest()
    assert found is not None
    assert found.tensors()["w"].abs().max() == 0
    assert found.state == {"rows": [1]}
    rank_state = found.rank_state(0)
    assert rank_state is not None
    assert rank_state["r"].abs().max() == 0


def test_saving_the_same_step_again_changes_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 1)
    before = (tmp_path / "step-00000001" / "manifest.json").stat().st_mtime_ns
    save(store, 1)
    assert (tmp_path / "step-00000001" / "manifest.json").stat().st_mtime_ns == before


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


def test_killed_at_every_point_of_the_next_start(tmp_path: Path) -> None:
    """A save was killed just before its last rename, over a damaged folder; then the start that mends it."""
    start = tmp_path / "start"
    store = make_store(start)
    save(store, 2)
    save(store, 3)
    store.close()
    shutil.copytree(start / "step-00000003", start / f".step-00000003.tmp-{'a' * 12}-7")
    (start / "step-00000003" / "manifest.json").unlink()
    shutil.copytree(start / "step-00000002", start / f".step-00000001.old-{'a' * 12}-6")
    for event in range(1, 200):
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
        codes = two_ranks(folder, "second", 2, works, keep_last=1, commit_timeout=1.0)
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


def test_a_disk_too_small_is_known_before_writing(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 1)
    with pytest.raises(CheckpointError, match=rf"{2**46} bytes") as caught:
        store.save(2, {"large": torch.zeros(1).expand(2**44)}, {}, {}, None)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(caught.value)
    assert "bytes free" in str(caught.value)
    assert visible(tmp_path) == ["step-00000001"]
    save(store, 3)
    assert_is(store.latest(), 3)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_write_that_fails_half_way_leaves_the_last_checkpoint(tmp_path: Path, asynchronous: bool) -> None:
    def work() -> None:
        store = make_store(tmp_path, keep_last=1, asynchronous=asynchronous)
        save(store, 1)
        store.wait()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(CheckpointError, match="File too large") as caught:
            save(store, 2, size=5000)
            store.wait()
        assert str(tmp_path) in str(caught.value)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert visible(tmp_path) == ["step-00000001"]
        assert_is(store.latest(), 1)
        save(store, 2)
        store.wait()
        assert visible(tmp_path) == ["step-00000002"]

    assert join(fork(work)) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def test_a_disk_that_fills_up_during_the_save(small_disk: Path) -> None:
    """Two ranks' shares fit one by one, not together."""
    works: dict[str, Any] = {"world_size": 2, "attempt": "a", "asynchronous": True}
    first, second = make_store(small_disk, **works), make_store(small_disk, rank=1, **works)
    save(first, 1, 0)
    save(second, 1, 1)
    first.wait()
    second.wait()
    large = torch.arange(900_000, dtype=torch.float32)
    errors = []
    first.save(2, {"a": large}, {}, {}, None)
    saves = functools.partial(second.save, 2, {"b": large}, {}, {}, None)
    for work in (saves, second.wait, first.wait):
        try:
            work()
        except CheckpointError as error:
            errors.append(error)
    assert len(errors) == 2
    assert all("No space left on device" in str(error) for error in errors)
    first.close()
    assert shutil.disk_usage(small_disk).used < 1_000_000, "the half-written shards are removed"
    assert_is(latest(small_disk, world_size=2, attempt="b"), 1, world_size=2)


@pytest.mark.parametrize("harm", ["flip", "cut", "missing", "manifest", "listing", "version"])
def test_a_damaged_checkpoint_is_passed_over_with_one_warning(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path)
    save(store, 1)
    save(store, 2)
    folder = tmp_path / "step-00000002"
    shard, manifest = folder / "shard-00001-of-00001.safetensors", folder / "manifest.json"
    data, listed = bytearray(shard.read_bytes()), json.loads(manifest.read_text())
    if harm == "flip":
        data[-1] ^= 1
        shard.write_bytes(data)
    elif harm == "cut":
        shard.write_bytes(data[:-1])
    elif harm == "missing":
        shard.unlink()
    elif harm == "manifest":
        manifest.write_text(manifest.read_text()[:-10])
    elif harm == "listing":
        listed["files"]["../../shard.safetensors"] = listed["files"].pop(shard.name)
        manifest.write_text(json.dumps(listed))
    else:
        manifest.write_text(json.dumps(listed | {"format": 2}))
    for _ in range(2):
        assert_is(store.latest(), 1)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert str(folder) in warnings[0]
    save(make_store(tmp_path, keep_last=2), 2)
    assert_is(store.open(2), 2)


def test_when_nothing_is_good_the_run_does_not_start_over(tmp_path: Path) -> None:
    save(make_store(tmp_path), 1)
    (tmp_path / "step-00000001" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="none of the 1 checkpoints is good"):
        make_store(tmp_path).latest()
    with pytest.raises(ValueError, match=r"it has no manifest\.json"):
        make_store(tmp_path).open(1)


def test_another_runs_checkpoints_are_refused(tmp_path: Path) -> None:
    save(make_store(tmp_path), 1)
    with pytest.raises(
        ValueError, match=r"recipe is 'abc' there and 'xyz' here\. Choose another `out`"
    ) as caught:
        latest(tmp_path, identity=IDENTITY | {"recipe": "xyz"})
    assert "code" not in str(caught.value)
    with pytest.raises(ValueError, match="seed is None there and 3 here"):
        latest(tmp_path, identity=IDENTITY | {"seed": 3})


def test_a_run_that_does_not_resume_destroys_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.refuse_existing()
    save(store, 7)
    with pytest.raises(ValueError, match=r"up to step 7 and checkpoint\.resume is false"):
        store.refuse_existing()


def test_two_processes_cannot_write_to_one_folder(tmp_path: Path) -> None:
    store = make_store(tmp_path)

    def work() -> None:
        with pytest.raises(ValueError, match="another process writes checkpoints there"):
            make_store(tmp_path)

    assert join(fork(work)) == 0
    store.close()
    assert join(fork(lambda: make_store(tmp_path).close())) == 0


def test_wrong_use_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="attempt"):
        make_store(tmp_path, world_size=2)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        make_store(tmp_path, rank=2, world_size=2, attempt="a")
    with pytest.raises(ValueError, match="identity is not JSON"):
        make_store(tmp_path, identity={"x": float("nan")})
    with pytest.raises(ValueError, match="state of step 1 is not JSON"):
        make_store(tmp_path).save(1, {}, {"x": torch}, {}, None)


@settings(max_examples=25, deadline=None)
@given(
    metrics=st.lists(st.none() | st.sampled_from([0.0, 0.5, 1.0, 2.0, float("nan")]), min_size=1, max_size=8),
    keep_last=st.integers(1, 3),
    keep_best=st.integers(0, 2),
    lower=st.booleans(),
)
def test_what_is_kept(
    tmp_path_factory: pytest.TempPathFactory,
    metrics: list[float | None],
    keep_last: int,
    keep_best: int,
    lower: bool,
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    store = make_store(folder, keep_last=keep_last, keep_best=keep_best, lower_is_better=lower)
    for step, metric in enumerate(metrics):
        store.save(step, {"w": torch.tensor(step)}, {}, {}, metric)
        kept = [int(name.removeprefix("step-")) for name in visible(folder)]
        assert kept[-keep_last:] == list(range(max(0, step + 1 - keep_last), step + 1))
        # The best of all so far, newer ones first among equals: none of them is ever deleted.
        rated = [(m, s) for s, m in enumerate(metrics[: step + 1]) if m is not None and math.isfinite(m)]
        rated.sort(key=lambda pair: (pair[0] if lower else -pair[0], -pair[1]))
        assert set(kept) == set(kept[-keep_last:]) | {s for _, s in rated[:keep_best]}
    store.close()
