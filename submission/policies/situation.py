"""What a policy sees of a problem, what it may ask for, and what all policies have in common."""

import math
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from submission.selection.candidate import Candidate


@dataclass(frozen=True)
class Running:
    """One attempt that has not ended.

    Args:
        attempt: its number, by which it is aborted.
        tokens: completion tokens so far.
        seconds: how long it has run.
        logprob: sum of the log-probabilities of these tokens, nats; NaN where unknown.
    """

    attempt: int
    tokens: int = 0
    seconds: float = 0.0
    logprob: float = math.nan


@dataclass(frozen=True)
class Situation:
    """One problem at one moment. Facts only: two equal situations get equal decisions.

    Args:
        finished: attempts that ended, in order of arrival.
        running: attempts that have not ended, in order of start.
        aborted: attempts that were cut off and count for nothing but `max_attempts`.
        max_attempts: attempts that may be started for this problem, all of them counted.
        concurrency: attempts that may run side by side.
        parallel: attempts that run side by side at little loss of speed; a policy that draws in waves keeps
            that many going. More of it saves wall time and spends engine time.
        seconds_left: until this problem's time is out.
        typical_seconds: of a whole attempt at earlier problems; NaN where unknown.
        price: what a second of the whole machine is worth, in right answers (`submission.ledger`); NaN where
            unknown.
        verifier_seconds: what asking the verifier would take; infinite where there is none, it was asked, or
            whatever it says the answer stays.
    """

    finished: tuple[Candidate, ...] = ()
    running: tuple[Running, ...] = ()
    aborted: int = 0
    max_attempts: int = 8
    concurrency: int = 8
    parallel: int = 1
    seconds_left: float = math.inf
    typical_seconds: float = math.nan
    price: float = math.nan
    verifier_seconds: float = math.inf

    @property
    def unstarted(self) -> int:
        """Attempts that may still be started."""
        return max(0, self.max_attempts - len(self.finished) - len(self.running) - self.aborted)

    @property
    def free(self) -> int:
        """Attempts that may be started now."""
        return max(0, min(self.unstarted, self.concurrency - len(self.running)))


@dataclass(frozen=True)
class Decision:
    """What to do now. All fields empty: wait for the next attempt to end.

    Args:
        stop: why the problem is over, "" if it is not; whatever still runs is to be aborted.
        answer: with `stop`, the answer that this policy would give; None for none.
        run: attempts to start.
        abort: numbers of running attempts to cut off; the problem goes on.
        verify: ask the verifier about the candidates; then ask the policy again.
    """

    stop: str = ""
    answer: Hashable | None = None
    run: int = 0
    abort: tuple[int, ...] = ()
    verify: bool = False


Policy = Callable[[Situation], Decision]


def tally(situation: Situation) -> list[tuple[Hashable, int]]:
    """(answer, votes) of the finished attempts, most first; equal votes in order of first arrival."""
    answers = (candidate.answer for candidate in situation.finished)
    return Counter(answer for answer in answers if answer is not None).most_common()


def plurality(situation: Situation) -> Hashable | None:
    """The answer with the most votes; None without any vote.

    Of equals, the one with the shortest attempt behind it: that is the first to arrive when all attempts
    start together, and shorter attempts tend to be right (Hassid et al. 2025, "Don't Overthink It").
    """
    ranked = tally(situation)
    if not ranked:
        return None
    tied = [answer for answer, votes in ranked if votes == ranked[0][1]]
    if len(tied) == 1:
        return tied[0]
    shortest: dict[Hashable, float] = {}
    for candidate in situation.finished:
        if candidate.answer is not None:
            known = shortest.get(candidate.answer, math.inf)
            shortest[candidate.answer] = min(known, candidate.seconds)
    return min(tied, key=lambda answer: shortest[answer])


def ended(situation: Situation) -> Decision | None:
    """The end that no policy can put off: no time, or no attempt left. None while the problem is open."""
    if situation.seconds_left <= 0:
        return Decision(stop="time out", answer=plurality(situation))
    if not situation.running and not situation.unstarted:
        return Decision(stop="all finished", answer=plurality(situation))
    return None


def keep_running(situation: Situation, width: int) -> Decision:
    """Start what is missing to `width` attempts side by side, as far as attempts and machine allow.

    At least one attempt runs afterwards, so that there is something to wait for.
    """
    return Decision(run=min(situation.free, max(width, 1) - min(width, len(situation.running))))
