"""Recorded attempts played under a policy, on a virtual clock: what it answers and what it takes.

Attempts that run side by side advance at their recorded speeds. Engine time is the sum over attempts of the
seconds that each ran, an aborted one until it was cut off: the time of a machine whose every token costs the
same. Wall time is the other extreme, a machine that runs its attempts side by side at no loss; a real one
lies in between.
"""

import heapq
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from benchmarks.attempts import Attempt
from submission.policies.situation import Decision, Policy, Running, Situation
from submission.selection.candidate import Candidate


@dataclass(frozen=True)
class Outcome:
    """What became of one problem: its answer, both kinds of seconds, and the attempts that were started."""

    answer: Hashable | None
    engine_seconds: float
    wall_seconds: float
    started: int
    stopped: str
    whole: tuple[float, ...]
    """Seconds of the attempts that ended by themselves."""


def replay(
    attempts: Sequence[Attempt],
    policy: Policy,
    situation: Situation | None = None,
    *,
    engine_seconds: float = math.inf,
) -> Outcome:
    """Play one problem.

    Args:
        attempts: in the order in which they are started; the policy gets at most these.
        policy: decides at each end of an attempt, and at the deadline.
        situation: concurrency, price and typical seconds.
        engine_seconds: time for this problem, in which all that run side by side share.
    """
    base = situation or Situation()
    base = replace(base, max_attempts=min(base.max_attempts, len(attempts)))
    return _Play(attempts, policy, base, engine_seconds).run()


class _Play:
    def __init__(
        self, attempts: Sequence[Attempt], policy: Policy, base: Situation, engine_seconds: float
    ) -> None:
        self._attempts = attempts
        self._policy = policy
        self._base = base
        self._limit = engine_seconds
        self._now = 0.0
        self._used = 0.0
        self._begun: dict[int, float] = {}
        self._ends: list[tuple[float, int]] = []
        self._finished: list[Candidate] = []
        self._started = 0
        self._aborted = 0

    def run(self) -> Outcome:
        while True:
            decision = self._policy(self._situation())
            if decision.stop:
                whole = tuple(candidate.seconds for candidate in self._finished)
                return Outcome(decision.answer, self._used, self._now, self._started, decision.stop, whole)
            self._follow(decision)
            self._advance()

    def _situation(self) -> Situation:
        running = tuple(self._running(attempt, self._now - begun) for attempt, begun in self._begun.items())
        return replace(
            self._base,
            finished=tuple(self._finished),
            running=running,
            aborted=self._aborted,
            seconds_left=(self._limit - self._used) / self._base.concurrency,
        )

    def _running(self, number: int, seconds: float) -> Running:
        attempt = self._attempts[number]
        done = min(1.0, seconds / attempt.seconds) if attempt.seconds else 1.0
        return Running(number, int(attempt.tokens * done), seconds, attempt.logprob * done)

    def _follow(self, decision: Decision) -> None:
        assert not decision.verify, "a replay has no verifier"
        for number in decision.abort:
            del self._begun[number]
            self._aborted += 1
        self._ends = [end for end in self._ends if end[1] in self._begun]
        heapq.heapify(self._ends)
        for _ in range(decision.run):
            self._begun[self._started] = self._now
            heapq.heappush(self._ends, (self._now + self._attempts[self._started].seconds, self._started))
            self._started += 1
        assert self._begun, "a policy waits with nothing running"
        assert len(self._begun) <= self._base.concurrency
        assert self._started <= self._base.max_attempts

    def _advance(self) -> None:
        """To the next end, or to the moment at which the time is used up."""
        end, number = self._ends[0]
        step, width = end - self._now, len(self._begun)
        if self._used + step * width >= self._limit:
            self._now += (self._limit - self._used) / width
            self._used = self._limit
            return
        heapq.heappop(self._ends)
        del self._begun[number]
        self._now, self._used = end, self._used + step * width
        attempt = self._attempts[number]
        self._finished.append(
            Candidate(attempt.answer, attempt.tokens, attempt.logprob, seconds=attempt.seconds)
        )
