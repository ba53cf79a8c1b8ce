"""What became of every problem of every contest: answer, samples, verdicts. The tables are made of these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.run.gathering import ENDED, Drawn, Played
from benchmarks.run.judging import Judge, Verdict
from benchmarks.run.playing import Finished
from benchmarks.run.sets import Item
from submission.journal import AnswerLine
from submission.selection.candidate import Candidate
from submission.selection.voting import majority


@dataclass(frozen=True)
class Outcome:
    """One problem of one contest.

    Args:
        set: name of the problem set.
        repeat: of the contest, from 0.
        item: the problem with its gold answer.
        samples, verdicts: one of each a sample, in order of arrival.
        answer: what was given, None where nothing was.
        right: whether it is.
        source: "vote", "partial" or "default", as in the journal; "not recorded" without a line. Of samples
            without a limit "vote", or "default" where none has an answer.
        seconds: wall time of the problem.
        stopped: why no further sample was drawn.
        begun, answered: seconds of the contest.
    """

    set: str
    repeat: int
    item: Item
    samples: tuple[Drawn, ...]
    verdicts: tuple[Verdict, ...]
    answer: str | None
    right: bool
    source: str
    seconds: float
    stopped: str
    begun: float
    answered: float

    @property
    def tokens(self) -> int:
        """Completion tokens of all samples, those that were cut off included."""
        return sum(one.line.tokens for one in self.samples)

    @property
    def attempts(self) -> tuple[tuple[Candidate, bool], ...]:
        """Samples that count as attempts, with whether they are right: ended ones and failed ones.

        Those that the policy or the time cut off say nothing of what the model would have answered.
        """
        return tuple(
            (_candidate(one, verdict), verdict.right)
            for one, verdict in zip(self.samples, self.verdicts, strict=True)
            if one.line.finish in (*ENDED, "error")
        )

    @property
    def plain_right(self) -> bool:
        """Whether the plain vote of all that answered is right."""
        ranked = majority([verdict.answer for verdict in self.verdicts])
        return bool(ranked) and self.verdicts[ranked[0].first].right


def _candidate(one: Drawn, verdict: Verdict) -> Candidate:
    line = one.line
    known = {} if line.logprob is None else {"logprob": line.logprob}
    return Candidate(
        answer=verdict.answer,
        tokens=line.tokens,
        steps=one.steps,
        finished=line.finish in ENDED,
        seconds=line.seconds,
        **known,
    )


def outcomes_of(
    finished: Finished,
    judge: Judge,
    scores: Mapping[tuple[str, int], tuple[float, ...]],
    *,
    contest: bool,
) -> list[Outcome]:
    """Every problem of the set, in its order.

    Args:
        finished: a job that was played.
        judge: for golds that are no integers of the contest's range.
        scores: of samples that the contest did not score, by problem and attempt.
        contest: the gateway's answers count; else the plain vote of all samples, of any kind of answer.
    """
    settings = finished.setup.settings
    rules = settings.rules
    found = []
    for item in finished.job.problems.items:
        played = finished.contest.problems.get(item.id) or Played(item.id, (), None, 0.0, 0.0)
        samples = tuple(
            one if one.steps else replace(one, steps=scores.get((item.id, one.attempt), ()))
            for one in played.samples
        )
        verdicts = judge.samples(
            samples,
            item.gold,
            rules.answer_min,
            rules.answer_max,
            last_number=settings.solver.last_number,
        )
        line = played.answer
        given = finished.answers.get(item.id)
        answer, right = (
            (None if given is None else str(given), given is not None and given == item.gold.integer)
            if contest
            else _voted(verdicts)
        )
        found.append(
            Outcome(
                set=finished.job.problems.name,
                repeat=finished.job.repeat,
                item=item,
                samples=samples,
                verdicts=tuple(verdicts),
                answer=answer,
                right=right,
                source=_source(line, answer, contest=contest),
                seconds=line.seconds if line else 0.0,
                stopped=line.stopped if line else "",
                begun=played.begun,
                answered=played.answered,
            )
        )
    return found


def _source(line: AnswerLine | None, answer: str | None, *, contest: bool) -> str:
    if line is None:
        return "not recorded"
    if contest:
        return line.source
    return "default" if answer is None else "vote"


def _voted(verdicts: Sequence[Verdict]) -> tuple[str | None, bool]:
    ranked = majority([verdict.answer for verdict in verdicts])
    if not ranked:
        return None, False
    winner = verdicts[ranked[0].first]
    return winner.answer, winner.right
