"""The contest's journal: one JSON line a fact, written as it happens, read back after a crash.

Lines: `contest` (start, limits), `ready` (engine loaded), `problem` (begun), `sample`, `answer`, `end`,
`fault`. A write that fails (full disk) never stops a contest: it is reported once and the facts stay in
memory. Lines are self-contained, so a file cut in mid-line loses that line alone.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Journal:
    """Append-only JSON lines. `path=None` keeps nothing (for simulations)."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.failed = ""
        self._handle: int | None = None
        self._torn = False
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._mend_last_line()
        except OSError as error:
            self._fail(error)

    def _mend_last_line(self) -> None:
        """A process killed in mid-line left no newline: end that line, or the next one is lost with it."""
        assert self._handle is not None
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            os.write(self._handle, b"\n")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record, handed to the system before this returns. Never raises OSError."""
        if self._handle is None:
            return
        # ASCII: model text may hold lone surrogates, which UTF-8 refuses.
        line = json.dumps(record, ensure_ascii=True, default=str).encode("ascii") + b"\n"
        try:
            if self._torn:
                line = b"\n" + line
            self._torn = True  # until the whole line stands
            while line:
                line = line[os.write(self._handle, line) :]
            self._torn = False
            # Answers must survive a power cut; a sample lost with the machine costs little.
            if record.get("type") == "answer":
                os.fsync(self._handle)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self.failed:
            self.failed = f"journal {self.path} cannot be written: {error.strerror}; continuing in memory"
            log.error(self.failed)

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@dataclass(frozen=True)
class JournalContent:
    """What could be read: records in order, and how many lines were damaged."""

    records: list[dict[str, Any]]
    damaged: int


def read_journal(path: Path) -> JournalContent:
    """Read a journal, skipping damaged lines (a cut last line, garbage); a missing file is empty."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return JournalContent([], 0)
    records, damaged = [], 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            damaged += 1
            continue
        if isinstance(record, dict):
            records.append(record)
        else:
            damaged += 1
    return JournalContent(records, damaged)
