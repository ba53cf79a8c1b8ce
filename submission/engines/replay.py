"""Recorded samples played back with their times: no model, the same contest.

On a `VirtualLoop` a five-hour contest takes seconds; on a real loop it takes its real time. Faults can be
recorded too, so that tests play them.
"""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submission.answers import extract
from submission.engines.base import Chunk, EngineError, Message, SampleRequest
from submission.journal import SampleLine, read_journal

# Chunks a recorded sample is cut into: enough for a deadline to fall inside one.
CHUNKS = 8


@dataclass(frozen=True)
class Recorded:
    """One recorded sample: its text, completion tokens and seconds; `error` is raised at its end instead."""

    text: str
    tokens: int
    seconds: float
    error: str = ""


class ReplayEngine:
    """Plays `recording[problem][attempt]`, wrapping round when more samples are asked for than recorded.

    `speed` > 1 plays faster, as a faster machine would; `load_seconds` is what `start` takes.
    """

    def __init__(
        self, recording: Mapping[str, Sequence[Recorded]], *, speed: float = 1.0, load_seconds: float = 0.0
    ) -> None:
        if speed <= 0:
            raise ValueError(f"speed {speed} must be positive")
        self._recording = recording
        self._speed = speed
        self._load_seconds = load_seconds
        self._running: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        """Wait as long as loading took."""
        await asyncio.sleep(self._load_seconds / self._speed)

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:  # noqa: ARG002
        """One token per four characters: a recording has no tokenizer."""
        return [0] * (1 + sum(len(message.content) for message in messages) // 4)

    def encode_text(self, text: str) -> list[int]:
        """As many tokens as `count_tokens` says."""
        return [0] * self.count_tokens(text)

    def encode_markup(self, text: str) -> list[int]:
        """The same."""
        return self.encode_text(text)

    def decode_text(self, ids: Sequence[int]) -> str:  # noqa: ARG002
        """Nothing: the tokens of a recording are numbers only, and a recorded sample has no rounds."""
        return ""

    def count_tokens(self, text: str) -> int:
        """One token per four characters, rounded up."""
        return -(-len(text) // 4)

    @property
    def max_context(self) -> int:
        """Unbounded for practical purposes: recordings are as long as they are."""
        return 1 << 30

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """Play one sample in `CHUNKS` equal parts of its time."""
        samples = self._recording.get(request.problem)
        if not samples:
            raise EngineError(f"the recording holds no sample of problem {request.problem!r}")
        sample = samples[request.attempt % len(samples)]
        aborted = self._running[request.request_id] = asyncio.Event()
        try:
            for part in range(CHUNKS):
                await asyncio.sleep(sample.seconds / self._speed / CHUNKS)
                if aborted.is_set():
                    return
                last = part == CHUNKS - 1
                if last and sample.error:
                    raise EngineError(sample.error)
                text = sample.text[_cut(len(sample.text), part) : _cut(len(sample.text), part + 1)]
                tokens = _cut(sample.tokens, part + 1) - _cut(sample.tokens, part)
                yield Chunk(text, (0,) * tokens, (), "stop" if last else None)
        finally:
            self._running.pop(request.request_id, None)

    async def abort(self, request_id: str) -> None:
        """End a sample at its next chunk."""
        if request_id in self._running:
            self._running[request_id].set()

    async def close(self) -> None:
        """End all samples."""
        for event in self._running.values():
            event.set()


def _cut(length: int, part: int) -> int:
    return length * part // CHUNKS


def load_recording(path: Path) -> dict[str, list[Recorded]]:
    """Read recorded samples: a contest journal (`.jsonl`), or a table (`.parquet`, `.csv`) of attempts.

    A table has the columns `problem_id`, `answer`, `time` (seconds), `total_tokens` and, if there is one,
    `solution`; where the solution's own text does not show the recorded answer, the answer is appended
    as a box, since some recordings keep only the chat's structure.

    Raises:
        ValueError: the file is missing, of another kind, or lacks a column.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"recording {path} does not exist")
    if path.suffix == ".jsonl":
        return _grouped(_from_journal(path))
    if path.suffix not in {".parquet", ".csv"}:
        raise ValueError(f"recording {path}: expected .jsonl, .parquet or .csv")
    return _grouped(_from_table(path))


def _from_journal(path: Path) -> Iterable[tuple[str, Recorded]]:
    for sample in read_journal(path).of(SampleLine):
        # A sample that was cut off took as long as it was let: its own length is unknown.
        if sample.finish in {"stop", "length"}:
            yield sample.id, Recorded(sample.text, sample.tokens, sample.seconds)


def _from_table(path: Path) -> Iterable[tuple[str, Recorded]]:
    import polars as pl

    table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    missing = {"problem_id", "answer", "time", "total_tokens"} - set(table.columns)
    if missing:
        raise ValueError(f"recording {path} lacks {sorted(missing)}; it has {table.columns}")
    for row in table.iter_rows(named=True):
        yield str(row["problem_id"]), _from_row(row)


def _from_row(row: Mapping[str, Any]) -> Recorded:
    text = str(row.get("solution") or "")
    answer = row["answer"]
    found = extract(text)
    if answer is not None and (found is None or found.text != str(answer)):
        text = f"{text}\n\\boxed{{{answer}}}"
    return Recorded(text, int(row["total_tokens"] or 0), float(row["time"] or 0.0))


def _grouped(samples: Iterable[tuple[str, Recorded]]) -> dict[str, list[Recorded]]:
    grouped: dict[str, list[Recorded]] = defaultdict(list)
    for problem, sample in samples:
        grouped[problem].append(sample)
    return dict(grouped)


def write_recording(path: Path, recording: Mapping[str, Sequence[Recorded]]) -> None:
    """Write samples as a journal that `load_recording` reads back (errors are not kept)."""
    from submission.files import write_text

    lines = (
        {
            "type": "sample",
            "id": problem,
            "attempt": attempt,
            "text": sample.text,
            "tokens": sample.tokens,
            "seconds": sample.seconds,
            "finish": "stop",
        }
        for problem, samples in recording.items()
        for attempt, sample in zip(itertools.count(), samples, strict=False)
    )
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
