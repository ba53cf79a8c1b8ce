"""`Record`: one problem with (or without) a worked answer. Readers make them, cleaning drops them,
training reads them, and `kit.traces` writes them: one JSON line each, the project's own trace format.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from submission.files import atomic_writer


class TopK(BaseModel):
    """Where a completion's cached teacher log-probabilities lie: see `kit/traces/topk.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    """Relative to the folder of the trace file."""
    row: int = Field(ge=0)
    """Index of this completion within that file."""


class Record(BaseModel):
    """One problem, and one completion of it where there is one.

    `completion` is the assistant's whole text (thought and solution). `completion_ids` are its tokens as the
    teacher sampled them, end token included: a student with the same tokenizer trains on these very ids.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: str = Field(min_length=1)
    answer: str = ""
    """The gold answer as the set writes it; empty where it has none."""
    completion: str = ""
    system: str = ""
    """A system message that was part of the prompt, if any."""
    source: str = ""
    """Name of the set that it came from."""
    licence: str = ""
    level: str = ""
    """The set's own difficulty label."""
    pass_rate: float | None = Field(default=None, ge=0, le=1)
    """Share of a model's samples that were right; None where it was not measured."""
    correct: bool | None = None
    """Whether the completion's answer was verified against the gold answer; None where nobody looked."""
    teacher: str = ""
    attempt: int = Field(default=0, ge=0)
    logprob: float | None = None
    """Mean log-probability of the completion's tokens under the teacher at temperature 1 (nats a token)."""
    prompt_ids: tuple[int, ...] = ()
    completion_ids: tuple[int, ...] = ()
    topk: TopK | None = None

    @property
    def problem_id(self) -> str:
        """Twelve hex digits that depend on the problem's text only."""
        return hashlib.sha256(self.problem.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    @property
    def id(self) -> str:
        """Twelve hex digits of everything that a model is trained on: system, problem, completion."""
        whole = json.dumps([self.system, self.problem, self.completion])
        return hashlib.sha256(whole.encode("ascii")).hexdigest()[:12]


def read_records(path: Path) -> Iterator[Record]:
    """Records of a file in the project's own trace format.

    Raises:
        ValueError: the file cannot be read, or a line is not a record; the message names the line.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse(line, f"{path}, line {number}")
    except OSError as error:
        raise ValueError(f"trace file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"trace file {path} is not UTF-8 text: {error}") from None


def _parse(line: str, place: str) -> Record:
    try:
        data: Any = json.loads(line)
        if not isinstance(data, Mapping):
            raise ValueError(f"{place}: expected a JSON object, got {line.strip()[:60]!r}")
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {key}: {first['msg']} (got {str(first['input'])[:80]!r})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON: {error}") from None


def dump_record(record: Record) -> str:
    """One JSON line without its newline; fields that hold their default are left out."""
    return json.dumps(record.model_dump(exclude_defaults=True))


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write a trace file atomically; returns how many records it holds."""
    count = 0
    with atomic_writer(path) as file:
        for record in records:
            file.write(dump_record(record).encode("ascii") + b"\n")
            count += 1
    return count
