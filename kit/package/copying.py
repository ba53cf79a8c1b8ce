"""Copies files and takes the SHA-256 of the copies at the same time.

The kernel copies (`copy_file_range`: no bytes pass through this process) while a thread that follows close
behind hashes what was written, which is then still in the page cache. The digest is thus of the copy itself.
Only one file is copied at a time: writing several at once was slower on ext4. A file may also be put together
from pieces of others (`kit.package.splitting`), in the same one pass.
"""

import errno
import hashlib
import os
import queue
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath

from submission.bundle import Entry, Progress

SMALL = 1 << 20
STEP = 16 << 20
BUFFER = 1 << 18
MAX_BEHIND = 16
"""Steps that the hash may be behind the copy, so that it reads from the page cache and not from the disk."""
MARGIN = 64 << 20
"""Bytes of disk that must stay free, for folders, small files and whoever else writes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file: `size` of them from `start` on, all to its end where `size` is None."""

    path: Path
    start: int = 0
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a bundle to be: its path there, and its content (bytes, a file to copy, pieces of files).

    `size` is the source's when it was checked, `sha256` its expected digest where one is known.
    """

    path: str
    source: Path | bytes | tuple[bytes | Piece, ...]
    size: int
    sha256: str | None = None

    @property
    def origin(self) -> str:
        """Where the content comes from, for a message."""
        if isinstance(self.source, tuple):
            paths = {str(piece.path): None for piece in self.source if isinstance(piece, Piece)}
            return ", ".join(paths)
        return self.path if isinstance(self.source, bytes) else str(self.source)


def check_space(folder: Path, items: Sequence[Item]) -> None:
    """ValueError when the disk that holds `folder` cannot take all items."""
    needed = sum(item.size for item in items) + MARGIN
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has {free / 1e6:,.0f} MB free and the bundle needs {needed / 1e6:,.0f} MB; free some "
            "space or name another --out"
        )


def write_all(items: Sequence[Item], folder: Path, progress: Progress) -> list[Entry]:
    """Write every item below `folder`; returns the entries sorted by path.

    Takes a few MiB of memory, whatever the size. Modes are 0644 and 0755.

    Raises:
        ValueError: the disk is full, or a source changed since it was checked.
    """
    for parent in sorted({parent for item in items for parent in PurePosixPath(item.path).parents}):
        (folder / parent).mkdir(exist_ok=True)
        (folder / parent).chmod(0o755)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as hashers:
        written = [(item, _write(item, folder, hashers, progress)) for item in items]
        entries = [Entry(item.path, size, digest.result()) for item, (size, digest) in written]
    for (item, _), entry in zip(written, entries, strict=True):
        if entry.size != item.size or (item.sha256 and entry.sha256 != item.sha256):
            raise ValueError(
                f"{item.origin} changed since it was checked; remove it if it is a wheel, build again"
            )
    return sorted(entries, key=lambda entry: entry.path)


def _write(
    item: Item, folder: Path, hashers: ThreadPoolExecutor, progress: Progress
) -> tuple[int, "Future[str]"]:
    target = folder / item.path
    try:
        if isinstance(item.source, bytes):
            target.write_bytes(item.source)
            done: Future[str] = Future()
            done.set_result(hashlib.sha256(item.source).hexdigest())
            progress(len(item.source))
            size = len(item.source)
        else:
            pieces = item.source if isinstance(item.source, tuple) else (Piece(item.source),)
            size, done = copy_and_hash(pieces, target, hashers, progress)
        target.chmod(0o644)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise ValueError(
                f"the disk is full or the file too large at {item.path}: {error.strerror}"
            ) from None
        raise
    return size, done


def copy_and_hash(
    pieces: Sequence[bytes | Piece], target: Path, hashers: ThreadPoolExecutor, progress: Progress
) -> tuple[int, "Future[str]"]:
    """Write pieces one after another to a new path; returns its size in bytes and, to come, its SHA-256."""
    steps: queue.Queue[int | None] = queue.Queue(MAX_BEHIND)
    total = 0
    with target.open("xb", buffering=0) as writer:
        digest = hashers.submit(_follow, target, steps)
        try:
            for piece in pieces:
                for count in _write_piece(piece, writer):
                    total += count
                    steps.put(count)
                    progress(count)
        finally:
            steps.put(None)
    return total, digest


def _write_piece(piece: bytes | Piece, writer: FileIO) -> Iterator[int]:
    """Append a piece; yields the bytes of each step. A file that is too short ends early."""
    if isinstance(piece, bytes):
        yield _write_whole(piece, writer)
        return
    left = piece.size
    with piece.path.open("rb", buffering=0) as reader:
        reader.seek(piece.start)
        while left is None or left > 0:
            count = copy_step(reader, writer, STEP if left is None else min(left, STEP))
            if not count:
                return
            left = None if left is None else left - count
            yield count


def copy_step(reader: FileIO, writer: FileIO, limit: int) -> int:
    """Copy up to `limit` bytes from where both files stand; returns how many, 0 at the end."""
    try:
        count = os.copy_file_range(reader.fileno(), writer.fileno(), limit)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}:
            raise
        count = 0
    # Some file systems cannot, and some say 0 where they cannot: reading tells the end for sure.
    return count or _write_whole(reader.read(min(limit, SMALL)) or b"", writer)


def _write_whole(content: bytes, writer: FileIO) -> int:
    left = memoryview(content)
    while left:
        left = left[writer.write(left) or 0 :]
    return len(content)


def _follow(path: Path, steps: "queue.Queue[int | None]") -> str:
    """SHA-256 of a file that is being written; `steps` gives the bytes that came, None at the end."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER))
    try:
        with path.open("rb", buffering=0) as file:
            while (left := steps.get()) is not None:
                while left:
                    left -= _update(digest, file, buffer[: min(left, BUFFER)])
    except BaseException:
        # The copy must not wait for a follower that is gone.
        while steps.get() is not None:
            pass
        raise
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", file: FileIO, buffer: memoryview) -> int:
    count = file.readinto(buffer)
    if not count:
        raise OSError(errno.EIO, "the copy became shorter while it was hashed")
    digest.update(buffer[:count])
    return count
