"""The kit's own policy: one more attempt while it is worth more than its time.

What an attempt is worth comes from `prospects`; what its time costs is `price` times the seconds that it
takes of the machine. So time goes from problems that agree early to those that do not, and from a contest
that is poor to one that is rich.

- It starts as many attempts as must be seen at least before stopping can be best, and no more, so none is
  started in vain; but at least `parallel`, where the machine runs that many side by side at little loss.
- Attempts that are under way have part of their cost behind them: they may go on where a new one would not
  be started, and are cut off where not even their rest is worth it.
- When no further attempt pays but answers compete, the verifier is asked if that pays.
"""

import math
from collections.abc import Sequence

from submission.policies.prospects import prospects
from submission.policies.situation import Decision, Situation, ended, plurality, tally

NEUTRAL_COST = 0.0035
"""Right answers that an attempt costs where nobody knows the price of time or how long attempts take."""
LEAST_REST = 0.25
"""Share of a whole attempt that one which is longer under way than usual is thought to have before it."""
VERIFIER_SKILL = 0.1
"""Share of the runner-up's chance that asking a verifier wins: little, until one is calibrated."""


def ours(situation: Situation) -> Decision:
    """Stop, wait, start, or ask the verifier: whichever is expected to win most for its time."""
    votes = [count for _, count in tally(situation)]
    blanks = len(situation.finished) - sum(votes)
    done = ended(situation)
    if done:
        return done if done.stop == "time out" else _verified(situation, votes, done.stop)
    whole = whole_seconds(situation)
    cost = attempt_cost(situation, whole)
    running, unstarted = len(situation.running), situation.unstarted
    seen = bool(situation.finished or situation.aborted)
    if running and seen:
        rest = cost * _rest(situation, whole)
        if not prospects(tuple(votes), blanks, rest, running + unstarted).needed:
            return _verified(situation, votes, _reason(votes))
    new = prospects(tuple(votes), blanks, cost, running + unstarted)
    if new.needed:
        width = max(new.needed, situation.parallel)
        return Decision(run=max(0, min(width - running, situation.free)))
    # However dear time is, a problem gets one attempt.
    if not seen:
        return Decision(run=0 if running else 1)
    return Decision() if running else _verified(situation, votes, _reason(votes))


def whole_seconds(situation: Situation) -> float:
    """Expected seconds of a whole attempt: the mean of what ended here, and of earlier problems as one more.

    NaN where nothing is known.
    """
    known = [candidate.seconds for candidate in situation.finished if candidate.seconds > 0]
    if math.isfinite(situation.typical_seconds):
        known.append(situation.typical_seconds)
    return sum(known) / len(known) if known else math.nan


def attempt_cost(situation: Situation, whole: float) -> float:
    """Right answers elsewhere that the machine's time for a whole attempt could have won.

    An attempt has its share of the machine, one in `concurrency`. Without a price, a usual attempt is taken
    to cost `NEUTRAL_COST`.
    """
    price = situation.price
    if math.isnan(price) and situation.typical_seconds > 0:
        price = NEUTRAL_COST / situation.typical_seconds * situation.concurrency
    cost = price * whole / situation.concurrency
    return NEUTRAL_COST if math.isnan(cost) else cost


def _rest(situation: Situation, whole: float) -> float:
    """Mean share of an attempt that those under way still have before them, in (0, 1]."""
    if math.isnan(whole) or whole <= 0:
        return 1.0
    rests = [max(LEAST_REST, 1 - run.seconds / whole) for run in situation.running]
    return sum(rests) / len(rests)


def _reason(votes: Sequence[int]) -> str:
    agreed = votes and (len(votes) == 1 or votes[0] > sum(votes[1:]))
    return "agree" if agreed else "not worth the time"


def _verified(situation: Situation, votes: Sequence[int], reason: str) -> Decision:
    """Stop, or ask the verifier first where answers compete and it is worth its time."""
    seconds = situation.verifier_seconds
    if len(votes) > 1 and seconds <= situation.seconds_left:
        second = votes[1] / len(situation.finished)
        price = 0.0 if math.isnan(situation.price) else situation.price
        if VERIFIER_SKILL * second > price * seconds:
            return Decision(verify=True)
    return Decision(stop=reason, answer=plurality(situation))
