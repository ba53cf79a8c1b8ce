"""The journal of a trace run: one JSON line a finished sample, appended as it ends, read back on resume.

Each worker appends to a file of its own. A line that was cut off by a kill is skipped, and ended by whoever
opens the file next, so that no other line is lost with it. Reading keeps the place of every line, not its
text: memory is about 300 bytes a sample, whatever its length; time is linear in the journal.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Token = Annotated[int, Field(ge=0, lt=2**31)]


class SampleLine(BaseModel):
    """One finished sample."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    type: Literal["sample"] = "sample"
    problem: str = Field(min_length=12, max_length=12)
    """`Record.problem_id`."""
    attempt: int = Field(ge=0)
    correct: bool
    """Verified against `gold`; a completion that was cut off is never correct."""
    finish: Literal["stop", "length"]
    answer: str = Field(default="", max_length=2_000)
    """As extracted; empty where none was found."""
    gold: str
    """What it was verified against."""
    logprob: float = 0.0
    """Mean over tokens at temperature 1, nats."""
    seconds: float = Field(default=0.0, ge=0)
    text: str
    ids: list[Token]


class SampleWriter:
    """Appends lines; each is handed to the system whole before `write` returns. OSError where it cannot."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            os.write(self._handle, b"\n")

    def write(self, line: SampleLine) -> None:
        """Append one line."""
        data = json.dumps(line.model_dump()).encode("ascii") + b"\n"
        while data:
            data = data[os.write(self._handle, data) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a sample stands, and what the choice of traces looks at first."""

    path: Path
    offset: int
    correct: bool
    finish: str
    answered: bool
    tokens: int


class SampleIndex:
    """The finished samples of a run, by problem and attempt."""

    def __init__(self) -> None:
        self.damaged = 0
        """Lines that are cut off or no samples."""
        self.foreign = 0
        """Samples of problems that the set no longer has, or has with another gold answer."""
        self._entries: dict[str, dict[int, Entry]] = {}

    @classmethod
    def read(cls, journals: Iterable[Path], golds: Mapping[str, str]) -> "SampleIndex":
        """Index files in order; the first of two lines for one sample counts.

        Args:
            journals: paths.
            golds: problem id to gold answer.

        Raises:
            ValueError: a journal cannot be read.
        """
        index = cls()
        for path in journals:
            try:
                index._add(path, golds)
            except OSError as error:
                raise ValueError(f"journal {path} cannot be read: {error.strerror}") from None
        return index

    def _add(self, path: Path, golds: Mapping[str, str]) -> None:
        offset = 0
        with path.open("rb") as file:
            for raw in file:
                begin, offset = offset, offset + len(raw)
                line = parse_line(raw)
                if line is None:
                    self.damaged += bool(raw.strip())
                elif golds.get(line.problem) != line.gold:
                    self.foreign += 1
                else:
                    entry = Entry(path, begin, line.correct, line.finish, bool(line.answer), len(line.ids))
                    self._entries.setdefault(line.problem, {}).setdefault(line.attempt, entry)

    def of(self, problem: str, samples: int) -> dict[int, Entry]:
        """Entries of a problem's first `samples` attempts, in order of attempt."""
        held = self._entries.get(problem, {})
        return {attempt: held[attempt] for attempt in sorted(held) if attempt < samples}


def load(entry: Entry) -> SampleLine:
    """The whole line of an entry. Raises ValueError if the journal changed since it was indexed."""
    with entry.path.open("rb") as file:
        file.seek(entry.offset)
        line = parse_line(file.readline())
    if line is None:
        raise ValueError(f"journal {entry.path} changed while it was read; run the same command again")
    return line


def parse_line(raw: bytes) -> SampleLine | None:
    """One line, or None if it is damaged or no sample."""
    if not raw.endswith(b"\n"):
        return None
    try:
        return SampleLine.model_validate_json(raw)
    except ValidationError:
        return None
