"""The contest's journal: one JSON line a fact, written as it happens, read back after a crash.

A write that fails (full disk) never stops a contest: it is reported once, and what could not be written is
lost to a restart and to the report, not to the run. Lines are self-contained, so a file cut in mid-line loses
that line alone. What is read is input like any other: each line is checked against its model.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

log = logging.getLogger(__name__)

Seconds = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    at: Seconds = 0.0
    """Epoch seconds."""
    elapsed: Seconds = 0.0
    """Seconds since the contest's start."""


class ContestLine(_Line):
    """A process of the contest began."""

    type: Literal["contest"]
    digest: str = ""
    name: str = ""
    time_limit: Seconds = 0.0


class ReadyLine(_Line):
    """The engine is loaded."""

    type: Literal["ready"]


class ProblemLine(_Line):
    """A problem arrived."""

    type: Literal["problem"]
    id: str
    key: str = ""


class BudgetLine(_Line):
    """A problem got its seconds."""

    type: Literal["budget"]
    id: str
    seconds: Seconds


class CallLine(BaseModel):
    """What a sample asked of its tool."""

    model_config = _Line.model_config

    code: str = ""
    output: str = ""
    failed: bool = False
    seconds: Seconds = 0.0


class SampleLine(_Line):
    """A sample ended."""

    type: Literal["sample"]
    id: str
    attempt: Count
    role: str = ""
    answer: int | None = None
    tokens: Count = 0
    tool_tokens: Count = 0
    seconds: Seconds = 0.0
    finish: str = ""
    logprob: float | None = None
    error: str = ""
    calls: list[CallLine] = []
    prompted: Count = 0
    cached: Count = 0
    """Tokens of its prompts, and those of them that the engine's prefix cache held."""
    text: str = ""


class OpinionLine(BaseModel):
    """What a verifier or a selector said."""

    model_config = _Line.model_config

    role: str = ""
    task: str = ""
    answer: int | None = None
    right: bool | None = None
    tokens: Count = 0
    seconds: Seconds = 0.0
    text: str = ""


class AnswerLine(_Line):
    """A problem was answered."""

    type: Literal["answer"]
    id: str = ""
    key: str = ""
    answer: int
    source: str = ""
    plain: int | None = None
    """What the plain vote says."""
    rule: str = ""
    """How the answer was chosen."""
    votes: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = []
    totals: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = []
    """(answer, total) under the rule, the chosen one first."""
    prm: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = []
    """Mean PRM score of each answer; empty where nothing was scored."""
    scores: list[Annotated[list[float], Field(min_length=2)]] = []
    """A scored sample's attempt, and the scores of its steps."""
    opinions: list[OpinionLine] = []
    samples: Count = 0
    tokens: Count = 0
    seconds: Seconds = 0.0
    stopped: str = ""
    swap: Seconds | None = None
    """For engine and PRM to change places and back (`prm.swap`); None where it had nothing to decide."""
    scoring: Seconds = 0.0
    """In the PRM, then; without turns, beside the engine, for the scores that came."""
    unscored: str = ""
    """Why it gave no scores, then."""


class FaultLine(_Line):
    """Something went wrong that a reader of the report has to know."""

    type: Literal["fault"]
    what: str
    error: str = ""
    id: str = ""


class EndLine(_Line):
    """The contest is over: this journal is not continued."""

    type: Literal["end"]


Line = ContestLine | ReadyLine | ProblemLine | BudgetLine | SampleLine | AnswerLine | FaultLine | EndLine
L = TypeVar("L", bound=_Line)
_LINES: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="type")])


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
        """Append one record, handed to the system before this returns. Never raises."""
        if self._handle is None:
            return
        try:
            # ASCII: model text may hold lone surrogates, which UTF-8 refuses.
            line = json.dumps(record, ensure_ascii=True, default=str).encode("ascii") + b"\n"
        except Exception:
            log.exception("a record of the journal cannot be spelled, and is left out")
            return
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
            self.failed = f"journal {self.path} cannot be written: {error.strerror}; the contest goes on"
            log.error(self.failed)

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@dataclass(frozen=True)
class JournalContent:
    """What could be read: lines in order, and how many were damaged."""

    lines: list[Line]
    damaged: int

    def of(self, kind: type[L]) -> list[L]:
        """The lines of one kind, in order."""
        return [line for line in self.lines if isinstance(line, kind)]


def parse_line(raw: bytes) -> Line | None:
    """One line of a journal, or None if it is damaged or of no known kind."""
    try:
        # Not straight from bytes: the parser for JSON refuses the lone surrogates that model text may hold.
        return _LINES.validate_python(json.loads(raw))
    except (ValidationError, ValueError, RecursionError, OverflowError):
        return None


def read_journal(path: Path) -> JournalContent:
    """Read a journal, skipping damaged lines; one that is missing or cannot be read is empty."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return JournalContent([], 0)
    except OSError as error:
        log.warning("journal %s cannot be read: %s", path, error.strerror)
        return JournalContent([], 0)
    parsed = [parse_line(raw) for raw in data.split(b"\n") if raw.strip()]
    lines = [line for line in parsed if line is not None]
    return JournalContent(lines, len(parsed) - len(lines))
