"""`StepRecord`: one trace with a label a step, one JSON line each; and the data card of a set of them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from submission.files import atomic_writer, write_text

RECORDS, CARD = "steps.jsonl", "card.json"
Rate = Annotated[float, Field(ge=0, le=1)]


class StepRecord(BaseModel):
    """One labelled trace. All lists have one entry a step."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str
    """`Record.id` of the trace."""
    problem: str = Field(min_length=1)
    answer: str
    """The gold answer."""
    system: str = ""
    """The system message of the trace's prompt, if it names one."""
    steps: list[str] = Field(min_length=1)
    labels: list[Annotated[int, Field(ge=0, le=1)]]
    """Hard: 1 is right. The last one is the trace's own answer's."""
    soft: list[Rate | None]
    """Share of roll-outs that were right; the last one 1 or 0; None where a label was inferred."""
    estimates: list[Rate]
    """Posterior mean of the success rate: unlike `soft` not biased by when it was stopped."""
    rollouts: list[Annotated[int, Field(ge=0)]]
    """Drawn for each label; 0 where it follows from the answer or, in a bisection, from other steps."""
    first_error: int = Field(ge=-1)
    """Index of the first wrong step, -1 if none."""
    correct: bool
    """Whether the trace's own answer is right."""
    source: str = ""
    licence: str = ""
    teacher: str = ""
    """Model that wrote the trace, where the set says so."""
    model: str
    """Model that rolled out."""

    @model_validator(mode="after")
    def _one_a_step(self) -> Self:
        count = len(self.steps)
        for name in ("labels", "soft", "estimates", "rollouts"):
            if len(getattr(self, name)) != count:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {count} steps")
        expected = self.labels.index(0) if 0 in self.labels else -1
        if self.first_error != expected:
            raise ValueError(f"first_error is {self.first_error}, but the first label 0 is at {expected}")
        return self


class Audit(BaseModel):
    """Prefixes that went on until their label was certain, after the adaptive rule would have stopped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefixes: int = 0
    agree: int = 0


class StepCard(BaseModel):
    """card.json. It holds no date: the same run gives the same card."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    records: int
    problems: int
    steps: int
    right_steps: int
    without_error: int
    """Records whose every step is right."""
    right_answers: int
    contradictions: int
    """Right answers after a step labelled wrong."""
    rollouts: int
    """Behind the labels; the run may have drawn more before its settings changed."""
    rollouts_cut: int
    """Of all drawn ones, stopped by the token limit: these count as wrong."""
    rollout_tokens: int
    """Of all drawn ones."""
    audit: Audit
    model: str
    kept_by_source: dict[str, int]
    licences: dict[str, int]
    settings: dict[str, Any]
    dropped: dict[str, int]
    """Rows of the set (or, after a judge, records) that were left out, by reason."""
    sha256: str
    """Of steps.jsonl."""


def read_steps(path: Path) -> Iterator[StepRecord]:
    """Records of a file. ValueError names the line that is none, or says why the file cannot be read."""
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse(line, f"{path}, line {number}")
    except OSError as error:
        raise ValueError(f"step records {path} cannot be read: {error.strerror}") from None


def _parse(line: bytes, place: str) -> StepRecord:
    try:
        return StepRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "record"
        raise ValueError(f"{place}: {key}: {first['msg']} (got {str(first['input'])[:80]!r})") from None


def write_steps(
    folder: Path,
    records: Iterable[StepRecord],
    *,
    settings: dict[str, Any],
    dropped: dict[str, int],
    drawn: dict[str, int],
    audit: Audit,
) -> StepCard:
    """Write `steps.jsonl` and `card.json` into a folder, each atomically.

    Args:
        drawn: `rollouts_cut` and `rollout_tokens` of the card.
    """
    counts: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    problems: set[str] = set()
    models: set[str] = set()
    digest = hashlib.sha256()
    with atomic_writer(folder / RECORDS) as file:
        for record in records:
            # ASCII, so that no text of a model can break a line.
            line = record.model_dump_json(ensure_ascii=True).encode("ascii") + b"\n"
            digest.update(line)
            file.write(line)
            counts.update(_counts(record))
            sources[record.source] += 1
            licences[record.licence or "not stated"] += 1
            problems.add(record.problem)
            models.add(record.model)
    names = "records steps right_steps without_error right_answers contradictions rollouts"
    card = StepCard(
        problems=len(problems),
        model=", ".join(sorted(models)),
        kept_by_source=dict(sorted(sources.items())),
        licences=dict(sorted(licences.items())),
        settings=settings,
        dropped=dropped,
        audit=audit,
        sha256=digest.hexdigest(),
        **{name: counts[name] for name in names.split()},
        **drawn,
    )
    write_text(folder / CARD, card.model_dump_json(indent=1) + "\n")
    return card


def _counts(record: StepRecord) -> dict[str, int]:
    return {
        "records": 1,
        "steps": len(record.steps),
        "right_steps": sum(record.labels),
        "without_error": record.first_error < 0,
        "right_answers": record.correct,
        "contradictions": record.correct and record.first_error >= 0,
        "rollouts": sum(record.rollouts),
    }
