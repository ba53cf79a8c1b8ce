"""What came of a contest, gathered from the gateway's rows, the journal and the gold answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submission.gateway.rehearsal import Row
from submission.journal import read_journal
from submission.problems import Problem


@dataclass(frozen=True)
class Result:
    """One problem. `right` is None where there is no gold answer."""

    problem: Problem
    answer: Any
    right: bool | None
    lost: str
    source: str
    votes: tuple[tuple[int, int], ...]
    seconds: float
    tokens: int
    stopped: str
    started: float
    samples: tuple[Mapping[str, Any], ...] = field(repr=False, default=())


@dataclass(frozen=True)
class ContestResults:
    """All problems of one run, in the order they were asked."""

    name: str
    results: tuple[Result, ...]
    time_limit: float
    elapsed: float
    served: float | None
    """Seconds from the contest's start until the gateway could connect."""
    ready: float | None
    """Seconds until the model was loaded."""
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def graded(self) -> int:
        """Problems with a gold answer."""
        return sum(result.right is not None for result in self.results)

    @property
    def score(self) -> int:
        """Right answers."""
        return sum(bool(result.right) for result in self.results)

    @property
    def tokens(self) -> int:
        """Completion tokens of the whole run."""
        return sum(result.tokens for result in self.results)

    @property
    def unanswered(self) -> int:
        """Problems that no sample answered, so that the default was given."""
        return sum(result.source == "default" for result in self.results)

    @property
    def failed(self) -> bool:
        """Nothing answered, and for a reason other than the problems: the score says nothing of the model."""
        return bool(self.results and self.faults and self.unanswered == len(self.results))


def collect(
    problems: Sequence[Problem],
    rows: Iterable[Row],
    journal: Path,
    *,
    name: str,
    time_limit: float,
    elapsed: float,
    served: float | None = None,
    notes: Sequence[str] = (),
) -> ContestResults:
    """Join the gateway's rows with the journal's records; a row without a record counts as a default."""
    records = read_journal(journal).records
    answers = {record["id"]: record for record in records if record.get("type") == "answer"}
    begun = {record["id"]: record["elapsed"] for record in records if record.get("type") == "problem"}
    samples: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record.get("type") == "sample":
            samples.setdefault(record["id"], []).append(record)
    by_id = {problem.id: problem for problem in problems}
    results = []
    for row in rows:
        problem, record = by_id[row.id], answers.get(row.id, {})
        right = None
        if problem.answer is not None:
            right = not row.lost and row.answer == problem.answer
        results.append(
            Result(
                problem=problem,
                answer=row.answer,
                right=right,
                lost=row.lost,
                source=str(record.get("source", "default")),
                votes=tuple((vote[0], vote[1]) for vote in record.get("votes", ())),
                seconds=row.seconds,
                tokens=int(record.get("tokens", 0)),
                stopped=str(record.get("stopped", "")),
                started=float(begun.get(row.id, 0.0)),
                samples=tuple(sorted(samples.get(row.id, ()), key=lambda sample: sample["attempt"])),
            )
        )
    faults = tuple(
        f"{record.get('what')}: {record.get('error')}" for record in records if record.get("type") == "fault"
    )
    ready = next((record["elapsed"] for record in records if record.get("type") == "ready"), None)
    return ContestResults(name, tuple(results), time_limit, elapsed, served, ready, faults, tuple(notes))
