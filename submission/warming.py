"""Reads a bundle's weights ahead of the engine, several files at once, so that it finds them in memory.

A contest's data lies on a network mount, where one reader waits most of the time: strong entries read their
weights with many readers first. (On a local disk one reader was as fast.) It starts before the wheels are
installed and goes on behind the install and the load. Nothing depends on it, and the system drops such pages
again where it needs the memory. Only the standard library is used: it runs before anything is installed.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from submission.bundle import Bundle, open_beneath

log = logging.getLogger(__name__)
READERS = 16
STEP = 16 << 20
"""Bytes that one reader reads before it takes the next piece."""
SHARE = 0.8
"""Of the memory that is available: reading more would push out what was read first."""


def start_warming(bundle: Path, readers: int = READERS) -> threading.Thread:
    """Begin to read the weights in the background; the thread ends with the process."""

    def work() -> None:
        started = time.monotonic()
        try:
            done = warm(bundle, readers)
        except (OSError, ValueError) as error:
            # The engine reads the same files and will say what is wrong with them.
            log.warning("weights were not read ahead: %s", error)
            return
        log.warning("read %.1f GB of weights ahead in %.0f s", done / 1e9, time.monotonic() - started)

    thread = threading.Thread(target=work, name="warming", daemon=True)
    thread.start()
    return thread


def warm(bundle: Path, readers: int = READERS, memory: int | None = None) -> int:
    """Read the weights once, in the order that an engine takes them; returns the bytes read.

    Args:
        readers: how many read at a time.
        memory: bytes that are available; by default as the system says.

    Raises:
        OSError: a file cannot be read.
        ValueError: the bundle's manifest is not valid.
    """
    opened = Bundle.open(bundle)
    limit = int(SHARE * (available_memory() if memory is None else memory))
    weights = [entry for entry in opened.manifest.entries if entry.path.endswith(".safetensors")]
    root = os.open(opened.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pieces = list(_pieces([(entry.path, entry.size) for entry in weights], limit))
        with ThreadPoolExecutor(max_workers=readers, thread_name_prefix="warming") as pool:
            return sum(pool.map(lambda piece: _read(root, *piece), pieces))
    finally:
        os.close(root)


def _pieces(files: Sequence[tuple[str, int]], limit: int) -> Iterator[tuple[str, int, int]]:
    """Path, offset and length of each piece, up to `limit` bytes in all."""
    for path, size in files:
        for start in range(0, size, STEP):
            length = min(STEP, size - start, limit)
            if length <= 0:
                return
            limit -= length
            yield path, start, length


def _read(root: int, path: str, start: int, length: int) -> int:
    descriptor = open_beneath(root, path)
    try:
        buffer = bytearray(min(length, 1 << 20))
        done = 0
        while done < length:
            count = os.preadv(descriptor, [memoryview(buffer)[: length - done]], start + done)
            if not count:
                break
            done += count
        return done
    finally:
        os.close(descriptor)


def available_memory() -> int:
    """Bytes that the system can give without swapping (`MemAvailable`), within the container's limit."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    available = next(
        int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("MemAvailable")
    )
    limit = Path("/sys/fs/cgroup/memory.max")
    stated = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return available if stated == "max" else min(available, int(stated))
