"""The kit's own policy: the majority of eight at less than its time, and more votes where they are split.

- No problem ends before `LEAST` votes are in: the losses of stopping early are all in the first few.
- Up to `MAJORITY` attempts the aim is what that many would have answered. It stops once the further ones are
  worth less than their time: `prospects.gain` is what they may change, `attempt_cost` what they cost.
- Beyond, it looks `LOOK` attempts ahead by the same rule: a close race goes on, a settled or a hopeless one
  (all answers different) does not.
- Right attempts tend to be shorter than wrong ones (Hassid et al. 2025, "Don't Overthink it. Preferring
  Shorter Thinking Chains for Improved LLM Reasoning"), so a leader whose attempts are shorter than its
  rival's is believed sooner. That moves the number of attempts only: the vote is plain.

It starts as many attempts as must be seen at least before stopping can be best, and no more, so none is
started in vain; but at least `parallel`, where the machine runs that many side by side at little loss. What
is under way has part of its cost behind it, so it may end where a new one would not begin. When no further
attempt pays but answers compete, the verifier is asked if that pays.
"""

import math
import statistics
from collections.abc import Hashable, Sequence

from submission.policies.prospects import Counts, gain
from submission.policies.second_opinion import worth_asking
from submission.policies.situation import Decision, Situation, ended, plurality, tally

LEAST = 3
"""Votes before a problem ends, unless one of them costs more than `DEAR`."""
MAJORITY = 8
DECISIVE = 5
"""Attempts that can settle a majority of `MAJORITY`; so many without `LEAST` votes may be the end as well."""
LOOK = 4
"""Attempts looked ahead beyond `MAJORITY`."""
LEANING, LEANING_BEYOND = 1.0, 3.0
"""Powers of the ratio of lengths, leader's to rival's, up to `MAJORITY` and beyond."""
MOST_LEANING = 1.0
"""Most of the shrunk logarithm that counts."""
NEUTRAL_COST = 0.0035
"""Right answers that an attempt costs where nobody knows the price of time or how long attempts take."""
DEAR = 0.1
"""Right answers that an attempt costs where one answer has to do."""
LEAST_REST = 0.25
"""Share of a whole attempt that one which is longer under way than usual is thought to have before it."""


def ours(situation: Situation) -> Decision:
    """Stop, wait, start, or ask the verifier: whichever is expected to win most for its time."""
    ranked = _ranked(situation)
    votes = tuple(count for _, count in ranked)
    done = ended(situation)
    if done:
        return done if done.stop == "time out" else _verified(situation, done.stop)
    whole = whole_seconds(situation)
    cost = attempt_cost(situation, whole)
    running, seen = len(situation.running), len(situation.finished)
    needed = max(0, min(LEAST - sum(votes), DECISIVE - seen) if cost <= DEAR else 1 - seen)
    if not needed:
        cost *= _leaning(situation, ranked)
        if not _pays(situation, votes, cost, _rests(situation, whole)):
            return _verified(situation, _reason(votes))
        needed = _needed(situation, votes, cost)
    # Where a new attempt does not pay, what is under way may still.
    width = max(needed, situation.parallel) if needed else 0
    width = min(width, _affordable(situation, whole))
    return Decision(run=max(0 if running else 1, min(width - running, situation.free)))


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


def _affordable(situation: Situation, whole: float) -> int:
    """Attempts side by side for which there is time twice over: better one that ends than three cut off."""
    room = situation.seconds_left * situation.concurrency / 2
    if not whole > 0 or room >= whole * situation.concurrency:
        return situation.concurrency
    return max(1, math.floor(room / whole))


def _ranked(situation: Situation) -> list[tuple[Hashable, int]]:
    """`tally`, but of equals the one first that would be answered."""
    best = plurality(situation)
    return sorted(tally(situation), key=lambda item: (-item[1], item[0] != best))


def _leaning(situation: Situation, ranked: Sequence[tuple[Hashable, int]]) -> float:
    """What the cost is multiplied with: above 1 where the leader's attempts are shorter than its rival's.

    The logarithm of the ratio of mean lengths, shrunk as in a normal model whose answers differ by as much
    as the attempts of one do, times `LEANING`.
    """
    if len(ranked) < 2:
        return 1.0
    (leader, votes), (_, others) = ranked[:2]
    # Rivals with equally many votes count together, or the order of arrival would choose between them.
    rivals = {answer for answer, count in ranked[1:] if count == others}
    means = [
        statistics.fmean(one.seconds for one in situation.finished if one.answer in side)
        for side in ({leader}, rivals)
    ]
    if min(means) <= 0:
        return 1.0
    shrunk = (math.log(means[1]) - math.log(means[0])) / (1 + 1 / votes + 1 / others)
    power = LEANING if len(situation.finished) < MAJORITY else LEANING_BEYOND
    return math.exp(power * min(max(shrunk, -MOST_LEANING), MOST_LEANING))


def _draws(situation: Situation, seen: int) -> int:
    """Attempts looked ahead after `seen` have ended."""
    open_ = len(situation.running) + situation.unstarted + len(situation.finished) - seen
    return max(0, min(MAJORITY - seen if seen < MAJORITY else LOOK, open_))


def _pays(situation: Situation, votes: Counts, cost: float, rests: Sequence[float]) -> bool:
    """Whether to wait for what is under way, of which `rests` are to come, or to go on beyond that."""
    seen = len(situation.finished)
    draws, blanks = _draws(situation, seen), seen - sum(votes)
    ahead = sorted(rests)[:draws]
    if ahead and gain(votes, blanks, len(ahead)) > cost * sum(ahead):
        return True
    return gain(votes, blanks, draws) > cost * (sum(ahead) + draws - len(ahead))


def _needed(situation: Situation, votes: Counts, cost: float) -> int:
    """Fewest further attempts after which stopping may be best: all for the leader, or none like any."""
    seen = len(situation.finished)
    blanks, draws = seen - sum(votes), _draws(situation, seen)
    if gain(votes, blanks, draws) <= cost * draws:
        return 0
    first, others = (votes[0], votes[1:]) if votes else (0, ())
    for more in range(1, draws):
        left = _draws(situation, seen + more)
        agreed, scattered = (first + more, *others), (*votes, *[1] * more)
        if min(gain(agreed, blanks, left), gain(scattered, blanks, left)) <= cost * left:
            return more
    return draws


def _rests(situation: Situation, whole: float) -> list[float]:
    """Share of an attempt that each of those under way still has before it, in (0, 1]."""
    if math.isnan(whole) or whole <= 0:
        return [1.0] * len(situation.running)
    return [max(LEAST_REST, 1 - run.seconds / whole) for run in situation.running]


def _reason(votes: Counts) -> str:
    agreed = votes and (len(votes) == 1 or votes[0] > sum(votes[1:]))
    return "agree" if agreed else "not worth the time"


def _verified(situation: Situation, reason: str) -> Decision:
    """Stop, or ask the verifier first where answers compete and it is worth its time."""
    if worth_asking(situation):
        return Decision(verify=True)
    return Decision(stop=reason, answer=plurality(situation))
