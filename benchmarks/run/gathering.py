"""What a contest's journal tells of every problem, restarts included.

A continued contest numbers the whole samples that it inherits anew, in the order in which they ended, and
goes on after them (`submission.contest.read_known`); what had been cut off is drawn again. The same is done
here, so that the scores of an answer's line find their samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from submission.journal import (
    AnswerLine,
    BudgetLine,
    ContestLine,
    EndLine,
    FaultLine,
    JournalContent,
    ProblemLine,
    ReadyLine,
    SampleLine,
)

ENDED = ("stop", "length")


@dataclass(frozen=True)
class Drawn:
    """One sample: its line, and the seconds from the beginning of its problem's sampling to its end."""

    line: SampleLine
    attempt: int
    ended_at: float
    steps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Played:
    """One problem of a contest.

    Args:
        id: of the problem.
        samples: in order of arrival.
        answer: the line that answered it; None where the contest did not get there.
        begun: seconds of the contest when sampling began.
        answered: seconds of the contest when the answer was given.
    """

    id: str
    samples: tuple[Drawn, ...]
    answer: AnswerLine | None
    begun: float
    answered: float


@dataclass(frozen=True)
class Contest:
    """A whole contest: problems in the order in which they were asked, by id."""

    problems: Mapping[str, Played]
    digest: str
    finished: bool
    elapsed: float
    ready: float | None
    faults: tuple[str, ...]
    starts: int


@dataclass
class _Open:
    begun: float
    samples: list[Drawn] = field(default_factory=list)
    answer: AnswerLine | None = None
    answered: float = 0.0


def gather(content: JournalContent) -> Contest:
    """The contest that these lines are of."""
    problems: dict[str, _Open] = {}
    digests: list[str] = []
    ready: float | None = None
    finished = False
    waits: set[str] = set()
    for line in content.lines:
        if isinstance(line, ContestLine):
            digests.append(line.digest)
        elif isinstance(line, ReadyLine):
            ready = line.elapsed if ready is None else ready
        elif isinstance(line, EndLine):
            finished = True
        elif isinstance(line, ProblemLine):
            waits.add(line.id)
            known = problems.setdefault(line.id, _Open(line.elapsed))
            known.samples = _inherited(known.samples)
        elif isinstance(line, BudgetLine) and line.id in problems:
            # Loading is over: sampling begins. Of a continued problem the first beginning counts.
            if line.id in waits and not problems[line.id].samples:
                problems[line.id].begun = line.elapsed
            waits.discard(line.id)
        elif isinstance(line, SampleLine) and line.id in problems:
            found = problems[line.id]
            found.samples.append(Drawn(line, line.attempt, max(0.0, line.elapsed - found.begun)))
        elif isinstance(line, AnswerLine) and line.source != "journal":
            found = problems.setdefault(line.id, _Open(line.elapsed))
            found.answer, found.answered = line, line.elapsed
            found.samples = _scored(found.samples, line)
    elapsed = max((line.elapsed for line in content.lines), default=0.0)
    faults = tuple(dict.fromkeys(f"{line.what}: {line.error}" for line in content.of(FaultLine)))
    return Contest(
        {
            name: Played(name, tuple(one.samples), one.answer, one.begun, one.answered)
            for name, one in problems.items()
        },
        digests[0] if digests else "",
        finished,
        elapsed,
        ready,
        faults,
        len(digests),
    )


def _inherited(samples: Sequence[Drawn]) -> list[Drawn]:
    """Whole samples of the processes before, numbered anew."""
    whole = [one for one in samples if one.line.finish in ENDED]
    return [Drawn(one.line, number, one.ended_at) for number, one in enumerate(whole)]


def _scored(samples: Sequence[Drawn], answer: AnswerLine) -> list[Drawn]:
    steps = {int(row[0]): tuple(row[1:]) for row in answer.scores}
    return [Drawn(one.line, one.attempt, one.ended_at, steps.get(one.attempt, one.steps)) for one in samples]
