"""Copies files and takes their SHA-256 in one pass: a byte is read once, and hashed while it is written."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from submission.bundle import Entry, Progress

CHUNK = 4 << 20
MARGIN = 64 << 20
"""Bytes of disk that must stay free, for folders, small files and whoever else writes."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a bundle to be: its path there, and its content as bytes or as a file to copy.

    `size` is the source's when it was checked, `sha256` its expected digest where one is known.
    """

    path: str
    source: Path | bytes
    size: int
    sha256: str | None = None


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

    Holds two chunks (8 MiB) a core in memory, whatever the size. Modes are 0644 and 0755.

    Raises:
        ValueError: the disk is full, or a source changed since it was checked.
    """
    for parent in sorted({parent for item in items for parent in PurePosixPath(item.path).parents}):
        (folder / parent).mkdir(exist_ok=True)
        (folder / parent).chmod(0o755)
    cores = os.cpu_count() or 1
    # Largest first: the last thread to finish then has the least left to do.
    ordered = sorted(items, key=lambda item: (-item.size, item.path))
    with ThreadPoolExecutor(max_workers=cores) as pool:
        futures = [pool.submit(_write, item, folder, progress) for item in ordered]
        try:
            entries = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return sorted(entries, key=lambda entry: entry.path)


def _write(item: Item, folder: Path, progress: Progress) -> Entry:
    target = folder / item.path
    try:
        if isinstance(item.source, bytes):
            target.write_bytes(item.source)
            size, digest = len(item.source), hashlib.sha256(item.source).hexdigest()
            progress(size)
        else:
            size, digest = copy_and_hash(item.source, target, progress)
        target.chmod(0o644)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise ValueError(
                f"the disk is full or the file too large at {item.path}: {error.strerror}"
            ) from None
        raise
    if size != item.size or (item.sha256 and digest != item.sha256):
        raise ValueError(
            f"{item.source!s} changed since it was checked; remove it if it is a wheel, build again"
        )
    return Entry(item.path, size, digest)


def copy_and_hash(source: Path, target: Path, progress: Progress) -> tuple[int, str]:
    """Copy a file to a new path; returns its size in bytes and its SHA-256.

    What is hashed is the buffer that is written, so the digest is of the copy even if the source changes.
    """
    digest = hashlib.sha256()
    total = 0
    with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        if os.fstat(reader.fileno()).st_size <= CHUNK:
            data = reader.read(CHUNK + 1)
            while more := reader.read(CHUNK):
                data += more
            digest.update(data)
            _write_whole(writer.write, memoryview(data))
            progress(len(data))
            return len(data), digest.hexdigest()
        # One buffer is hashed on a second thread while it is written and the other one is filled.
        buffers = [memoryview(bytearray(CHUNK)) for _ in range(2)]
        pending: Future[None] | None = None
        with ThreadPoolExecutor(max_workers=1) as hasher:
            while count := reader.readinto(buffers[0]):
                if pending:
                    pending.result()
                filled = buffers[0][:count]
                pending = hasher.submit(digest.update, filled)
                _write_whole(writer.write, filled)
                buffers.reverse()
                total += count
                progress(count)
    return total, digest.hexdigest()


def _write_whole(write: Callable[[memoryview], int | None], data: memoryview) -> None:
    while data:
        data = data[write(data) or 0 :]
