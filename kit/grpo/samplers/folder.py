"""A private folder, in memory where it fits, through which weights pass from one process to another.

A killed run leaves its folder behind; the next one removes it. A folder in use is known by a lock, which ends
with the process that holds it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MEMORY = Path("/dev/shm")  # noqa: S108 - the folder made in it is private
PREFIX = "aimo-grpo-"


class WeightsFolder:
    """Holds one shard file at a time; mode 0700.

    Args:
        parent: where it is made; None takes memory (`MEMORY`) if it has the room, else the temporary folder.
        room: bytes that must fit.
    """

    def __init__(self, parent: Path | None, room: int) -> None:
        if parent is None:
            fits = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= room
            parent = MEMORY if fits else Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it; idempotent."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def remove_abandoned(parent: Path) -> None:
    """Remove this user's folders whose process is gone: its id is free, and so is the lock."""
    for path in parent.glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if path.is_symlink() or not path.is_dir() or not pid.isdigit() or path.stat().st_uid != os.getuid():
            continue
        if Path(f"/proc/{pid}").exists():
            continue
        # Containers may share the folder, not the process ids.
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def shard_files(weights: "Iterator[tuple[str, torch.Tensor]]", folder: Path, limit: int) -> Iterator[Path]:
    """Files with the weights, of at most `limit` bytes or one tensor; each is gone when the next is made.

    A shard is in memory twice while it is written, as tensors and as a file, and once while it is read.
    """
    from safetensors.torch import save_file

    path = folder / "weights.safetensors"
    held: dict[str, torch.Tensor] = {}

    def written() -> Path:
        save_file(held, path)
        held.clear()
        return path

    size = 0
    try:
        for name, tensor in weights:
            if held and size + tensor.nbytes > limit:
                yield written()
                path.unlink()
                size = 0
            held[name] = tensor.to("cpu", copy=True).contiguous()
            size += tensor.nbytes
        if held:
            yield written()
    finally:
        path.unlink(missing_ok=True)
