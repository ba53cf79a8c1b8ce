"""Keep completions whose final answer is the gold answer (rejection sampling's filter).

Answers are compared by `submission.answers`, as votes, scores and rewards are. What takes computer algebra
runs in its killable processes, so no completion can hang this step. A record without a completion is kept if
its gold answer can be compared with at all: that is what a set of problems for GRPO needs.

Time grows with the text; a comparison by algebra adds some 10 ms, at most `timeout` seconds.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import Field

from kit.data.records import Record
from kit.data.steps.base import Dropped, Outcome, Tick, no_tick
from submission.answers import Gold, check, extract, parse_gold
from submission.parsing.symbolic import SymbolicChecker
from submission.recipes import Recipe

NO_GOLD = "no gold answer"
BAD_GOLD = "gold answer cannot be compared with"
NO_ANSWER = "completion states no answer"
WRONG = "wrong answer"


class Verify(Recipe):
    """Settings of the step."""

    timeout: float = Field(default=5.0, gt=0, le=3600)
    """Seconds of one comparison by algebra; one that overruns counts as a wrong answer, and is noted."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes for the comparisons by algebra."""

    def apply(self, records: Sequence[Record], tick: Tick = no_tick) -> Outcome:
        """Records that are kept and have a completion come out with `correct` = True."""
        golds = {answer: _gold(answer) for answer in {record.answer for record in records}}
        outcome = Outcome()
        with SymbolicChecker(self.workers, self.timeout) as checker, ThreadPoolExecutor(self.workers) as pool:

            def judge(record: Record) -> tuple[str, str]:
                reason = _judge(record, golds[record.answer], checker)
                tick()
                return reason

            for record, (reason, detail) in zip(records, pool.map(judge, records), strict=True):
                if reason:
                    outcome.dropped.append(Dropped(record, reason, detail))
                elif record.completion:
                    outcome.kept.append(record.model_copy(update={"correct": True}))
                else:
                    outcome.kept.append(record)
            outcome.notes["comparisons by algebra"] = checker.comparisons
            outcome.notes[f"of these stopped after {self.timeout:g} s"] = checker.timeouts
            outcome.notes["of these crashed"] = checker.crashes
        return outcome


def _gold(answer: str) -> Gold | str:
    """The gold answer, or why it is none."""
    if not answer.strip():
        return NO_GOLD
    try:
        return parse_gold(answer)
    except ValueError as error:
        return str(error)


def _judge(record: Record, gold: Gold | str, checker: SymbolicChecker) -> tuple[str, str]:
    if isinstance(gold, str):
        return (NO_GOLD, "") if gold == NO_GOLD else (BAD_GOLD, gold)
    if not record.completion or check(record.completion, gold, checker):
        return "", ""
    found = extract(record.completion)
    if found is None:
        return NO_ANSWER, ""
    return WRONG, f"{found.text[:80]!r}, gold {gold.text[:80]!r}"
