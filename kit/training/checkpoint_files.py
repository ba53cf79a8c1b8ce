"""What a checkpoint is on disk: file names, manifest, hashes, and the lazy reader of its tensors.

    step-00000010/
        shard-00001-of-00002.safetensors    rank 0's share of the named tensors
        state-00001-of-00002.safetensors    rank 0's own state (random generators)
        rank-00001-of-00002.json            names, sizes and SHA-256 of the two, written after them
        ...
        manifest.json                       written last, by rank 0

A folder under construction is `.step-00000010.tmp-<token>`, one being deleted `.step-00000010.old-<token>`.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from submission.files import write_text

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"
_FOLDER = re.compile(r"step-(\d{8,})")
_HIDDEN = re.compile(r"\.step-(\d{8,})\.(tmp|old)-([0-9a-f]+)-(\d+)")
_DATA = re.compile(r"(shard|state)-\d{5}-of-\d{5}\.safetensors")
_CHUNK = 1 << 22


class CheckpointError(OSError):
    """A checkpoint could not be written; the message names place and cause. `errno` is the cause's."""

    def __init__(self, message: str, cause: int | None = None) -> None:
        super().__init__(message)
        self.errno = cause


class Damaged(Exception):  # noqa: N818 - a finding about a folder; never leaves this package
    """A checkpoint that is incomplete or not what was written; the message says how."""


class FileEntry(BaseModel):
    """What a data file must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class RankReport(BaseModel):
    """What one rank has written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: list[str]
    files: dict[str, FileEntry]


class Manifest(BaseModel):
    """What makes a folder a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    step: int = Field(ge=0)
    world_size: int = Field(ge=1)
    token: str
    identity: dict[str, JsonValue]
    metric: float | None
    state: dict[str, JsonValue]
    files: dict[str, FileEntry]


def strict_json(value: Any, what: str) -> str:
    """Serialize; ValueError for anything JSON has no name for, NaN and infinities among it."""
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} is not JSON: {error}") from None


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return folder / f"step-{step:08d}"


def data_name(kind: Literal["shard", "state"], rank: int, world_size: int) -> str:
    """Name of one rank's data file."""
    return f"{kind}-{rank + 1:05d}-of-{world_size:05d}.safetensors"


def report_name(rank: int, world_size: int) -> str:
    """Name of one rank's report."""
    return f"rank-{rank + 1:05d}-of-{world_size:05d}.json"


def steps_in(folder: Path) -> list[int]:
    """Steps that have a checkpoint folder, good or not, ascending."""
    if not folder.is_dir():
        return []
    # Listing, not stat by name: a network file system caches "there is no such name".
    found = (_FOLDER.fullmatch(name) for name in os.listdir(folder))  # noqa: PTH208 - names only
    return sorted(int(match[1]) for match in found if match)


def hidden_in(folder: Path) -> list[tuple[Path, int, str, str]]:
    """Folders under construction or deletion: path, step, "tmp" or "old", and whose attempt made them."""
    found = ((path, _HIDDEN.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return [(path, int(match[1]), match[2], match[3]) for path, match in found if match]


def publish(temporary: Path, final: Path) -> None:
    """Give a complete folder its place. A folder already there (a damaged one) makes room for it.

    Killed between the two renames, the complete folder is still there under its temporary name, and
    `CheckpointStore` finishes the job at the next start.
    """
    aside = temporary.with_name(temporary.name.replace(".tmp-", ".old-"))
    replaces = final.exists()
    if replaces:
        final.rename(aside)
    try:
        temporary.rename(final)
    except OSError:
        if replaces:
            aside.rename(final)
        raise
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems have no such call
            raise
    finally:
        os.close(handle)


def write_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]") -> FileEntry:
    """Write a safetensors file, sync it, and hash it.

    The hash costs a second pass, over pages still in memory: SHA-256 runs at 0.5 to 2 GB/s a core, in the
    writing thread.
    """
    from safetensors.torch import save_file

    save_file(dict(tensors), path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return FileEntry(bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_report(path: Path) -> RankReport | None:
    """A rank's report, or None while there is none."""
    with contextlib.suppress(OSError, ValueError):
        return RankReport.model_validate(json.loads(path.read_text(encoding="utf-8")))
    return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make `folder` complete, durably."""
    write_text(folder / MANIFEST, strict_json(manifest.model_dump(), "manifest") + "\n")
    sync_folder(folder)


def read_manifest(folder: Path) -> Manifest:
    """Raises `Damaged` if there is none, or it is not one of this format."""
    try:
        manifest = Manifest.model_validate(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise Damaged(f"it has no {MANIFEST}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Damaged(f"{MANIFEST}: {place}: {first['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} cannot be read ({error})") from None
    size = manifest.world_size
    expected = {data_name(kind, rank, size) for kind in ("shard", "state") for rank in range(size)}
    if set(manifest.files) != expected:
        raise Damaged(f"{MANIFEST} does not list the files of {size} ranks")
    return manifest


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raises `Damaged` if a file is missing or has another size."""
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if (size := path.stat().st_size) != entry.bytes:
            raise Damaged(f"{name} has {size} bytes for {entry.bytes}")


def check_hashes(folder: Path, manifest: Manifest) -> None:
    """Raises `Damaged` if a file is not what was written. Reads everything, several files at a time."""

    def damage(name: str) -> str | None:
        try:
            good = _sha256(folder / name) == manifest.files[name].sha256
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        return None if good else f"{name} is not what was written (SHA-256)"

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for found in pool.map(damage, sorted(manifest.files)):
            if found is not None:
                raise Damaged(found)


def remove(folder: Path) -> bool:
    """Delete a folder and what is in it; False if something stays (an open file on a network file system)."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


class LazyTensors(Mapping[str, "torch.Tensor"]):
    """Name → tensor over all shards of all ranks, read when asked for.

    A tensor may be a private view of the mapped file: copy what is to outlive the checkpoint's folder.
    """

    def __init__(self, shards: list[Path]) -> None:
        from safetensors import safe_open

        self._files: list[Any] = [safe_open(str(path), framework="pt") for path in shards]
        self._place: dict[str, Any] = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 - no mapping

    def __getitem__(self, name: str) -> "torch.Tensor":
        """KeyError if no rank wrote `name`."""
        tensor: torch.Tensor = self._place[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, whatever number of ranks wrote it."""

    path: Path
    step: int
    world_size: int
    """Ranks that wrote it."""
    state: Mapping[str, JsonValue]
    metric: float | None
    readers: int = field(repr=False)
    """Ranks that read it."""

    def tensors(self) -> LazyTensors:
        """All named tensors of all ranks, on the CPU, bit for bit as saved."""
        names = (data_name("shard", rank, self.world_size) for rank in range(self.world_size))
        return LazyTensors([self.path / name for name in names])

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self.tensors())

    def rank_state(self, rank: int) -> "dict[str, torch.Tensor] | None":
        """What `rank` saved of its own; None if another number of ranks wrote the checkpoint."""
        if self.world_size != self.readers:
            return None
        from safetensors.torch import load_file

        return load_file(self.path / data_name("state", rank, self.world_size))
