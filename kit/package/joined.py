"""Reads a file that lies in parts as if it were whole, without joining it."""

import bisect
import contextlib
import io
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO


class Parts(io.RawIOBase):
    """Files one after another as one file to read and seek in; they are closed with it."""

    def __init__(self, files: Sequence[IO[bytes]]) -> None:
        self._files = files
        self._ends = list(accumulate(file.seek(0, io.SEEK_END) for file in files))
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As for any file; ValueError before the start."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]  # what io passes
        """Read on from here, at most to the end of the part; 0 at the end."""
        number = bisect.bisect_right(self._ends, self._at)
        if number == len(self._files):
            return 0
        file, start = self._files[number], self._ends[number - 1] if number else 0
        file.seek(self._at - start)
        data = file.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextlib.contextmanager
def open_parts(root: Path, parts: Sequence[str]) -> Iterator[IO[bytes]]:
    """Open the files at `parts` below `root` as one; OSError where one cannot be opened."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((root / part).open("rb")) for part in parts]
        yield files[0] if len(files) == 1 else io.BufferedReader(Parts(files))
