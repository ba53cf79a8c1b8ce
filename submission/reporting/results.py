"""What came of a contest, gathered from the gateway's rows, the journal and the gold answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from submission.gateway.rehearsal import Row
from submission.journal import (
    AnswerLine,
    FaultLine,
    OpinionLine,
    ProblemLine,
    ReadyLine,
    SampleLine,
    read_journal,
)
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
    prm: tuple[tuple[int, float], ...]
    seconds: float
    tokens: int
    stopped: str
    started: float
    samples: tuple[SampleLine, ...] = field(repr=False, default=())
    plain: int | None = None
    """The plain vote's answer, where it is recorded."""
    rule: str = ""
    totals: tuple[tuple[int, float], ...] = ()
    opinions: tuple[OpinionLine, ...] = ()
    swap: float | None = None
    """Seconds for engine and PRM to change places and back, where they did or were to (`prm.swap`)."""
    unscored: str = ""
    """Why there are no scores then."""
    scores: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """PRM scores of a sample's steps, by its attempt."""


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
        """Problems that no sample answered, so that the default was given.

        Without a single line of an answer nothing is known of them: the journal could not be written.
        """
        sources = [result.source for result in self.results]
        if all(source == "not recorded" for source in sources):
            return 0
        return sum(source in {"default", "not recorded"} for source in sources)

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
    """Join the gateway's rows with the journal's records; a row without a record is told so."""
    content = read_journal(journal)
    answers: dict[str, AnswerLine] = {}
    for line in content.of(AnswerLine):
        # An answer known from before the restart keeps the votes that it was found by.
        if line.source != "journal" or line.id not in answers:
            answers[line.id] = line
    begun = {line.id: line.elapsed for line in content.of(ProblemLine)}
    samples: dict[str, dict[int, SampleLine]] = {}
    for sample in content.of(SampleLine):
        samples.setdefault(sample.id, {})[sample.attempt] = sample
    by_id = {problem.id: problem for problem in problems}
    results = []
    for row in rows:
        problem, answer = by_id[row.id], answers.get(row.id)
        right = None
        if problem.answer is not None:
            right = not row.lost and row.answer == problem.answer
        found = Result(
            problem=problem,
            answer=row.answer,
            right=right,
            lost=row.lost,
            source="not recorded",
            votes=(),
            prm=(),
            seconds=row.seconds,
            tokens=0,
            stopped="",
            started=begun.get(row.id, 0.0),
            samples=tuple(samples.get(row.id, {}).values()),
        )
        results.append(found if answer is None else _recorded(found, answer))
    faults = [f"{line.what}: {line.error}" for line in content.of(FaultLine)]
    unrecorded = sum(result.source == "not recorded" for result in results)
    if unrecorded:
        faults.append(
            f"the journal lacks {unrecorded} answers: it could not be written (see the server's log)"
        )
    ready = next((line.elapsed for line in content.of(ReadyLine)), None)
    return ContestResults(
        name, tuple(results), time_limit, elapsed, served, ready, tuple(dict.fromkeys(faults)), tuple(notes)
    )


def _recorded(result: Result, answer: AnswerLine) -> Result:
    """The result with what the journal tells of the answer."""
    return replace(
        result,
        source=answer.source,
        votes=tuple((vote[0], vote[1]) for vote in answer.votes),
        prm=tuple((int(pair[0]), pair[1]) for pair in answer.prm),
        tokens=answer.tokens,
        stopped=answer.stopped,
        plain=answer.plain,
        rule=answer.rule,
        totals=tuple((int(pair[0]), pair[1]) for pair in answer.totals),
        opinions=tuple(answer.opinions),
        swap=answer.swap,
        unscored=answer.unscored,
        scores={int(row[0]): tuple(row[1:]) for row in answer.scores},
    )
