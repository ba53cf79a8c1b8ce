"""Checkpoint stores for tests, what is put into them, and ways to die in the middle of it."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.training.checkpoints import Checkpoint, CheckpointStore

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
