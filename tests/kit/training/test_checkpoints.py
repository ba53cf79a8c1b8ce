"""The checkpoint store of one rank: exact, complete or not there at all, on real files."""

import errno
import functools
import json
import math
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.training.checkpoints import CheckpointError
from tests.examples import examples
from tests.kit.training.stores import IDENTITY, assert_is, fork, join, latest, make_store, save, visible

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")


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


@settings(max_examples=examples(25), deadline=None)
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
