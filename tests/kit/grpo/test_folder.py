"""The folder that weights pass through."""

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kit.grpo.samplers import folder
from kit.grpo.samplers.folder import WeightsFolder, shard_files


def test_it_is_private_and_goes(tmp_path: Path) -> None:
    made = WeightsFolder(tmp_path / "new", 0)
    assert made.path.parent == tmp_path / "new"
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    (made.path / "x").write_text("x")
    made.close()
    made.close()
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(("room", "where"), [(0, "memory"), (1 << 60, "disk")])
def test_memory_is_taken_where_it_has_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, where: str
) -> None:
    for name in ("memory", "disk"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(folder, "MEMORY", tmp_path / "memory")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))
    made = WeightsFolder(None, room)
    assert made.path.parent.name == where
    made.close()


def test_what_a_killed_process_left_goes_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from kit.grpo.samplers.folder import WeightsFolder\n"
        "made = WeightsFolder(Path(sys.argv[1]), 0)\n"
        "(made.path / 'weights.safetensors').write_text('x')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    alive = WeightsFolder(tmp_path, 0)
    other = tmp_path / "aimo-grpo-else"
    other.mkdir()
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode < 0
    assert len(list(tmp_path.iterdir())) == 3
    # The process that killed itself is another container's, as far as the lock says.
    (left,) = set(tmp_path.iterdir()) - {alive.path, other}
    held = os.open(left, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    folder.remove_abandoned(tmp_path)
    assert left.exists()
    os.close(held)
    new = WeightsFolder(tmp_path, 0)
    assert set(tmp_path.iterdir()) == {alive.path, other, new.path}
    alive.close()
    new.close()


def test_shards_hold_every_weight_once_within_the_limit(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = {f"w{i}": torch.full((size,), float(i)) for i, size in enumerate([3, 5, 2, 30, 1, 1])}
    found: dict[str, torch.Tensor] = {}
    sizes = []
    for path in shard_files(iter(weights.items()), tmp_path, limit=40):
        part = load_file(path)
        assert [item.name for item in tmp_path.iterdir()] == [path.name]
        assert not found.keys() & part.keys()
        sizes.append([tensor.numel() for tensor in part.values()])
        found |= part
    assert [sum(size) for size in sizes] == [10, 30, 2]
    assert list(tmp_path.iterdir()) == []
    for name, tensor in weights.items():
        assert torch.equal(found[name], tensor)


def test_a_reader_that_stops_leaves_no_file(tmp_path: Path) -> None:
    import torch

    files = shard_files(iter({"w": torch.ones(3)}.items()), tmp_path, limit=40)
    assert next(files).exists()
    files.close()  # type: ignore[attr-defined]  # a generator
    assert list(tmp_path.iterdir()) == []
