"""What further attempts are worth: the optimal stopping of a vote whose answers are unknown beforehand.

Attempts at one problem are alike but not independent: some problems draw one answer again and again, others
a new one each time. The Chinese restaurant process says so with one number, theta: after n attempts the next
one repeats an answer with c votes with probability c / (n + theta) and gives a new one with probability
theta / (n + theta). Theta is not known, so it gets a prior that is flat in its logarithm, from 1/2 to 512: it
leans towards disagreement, so that agreement has to show itself. The posterior follows from Ewens' sampling
formula and depends on nothing but the number of attempts and of different answers among them:

    P(n attempts, m different answers | theta)  ~  theta^m / (theta (theta + 1) ... (theta + n - 1))

An answer counts as right with the probability that the next attempt repeats it. Stopping is worth the
leader's probability; one more attempt costs `cost`; the best of both follows by backward induction over the
vote counts. Attempts without an answer thin out those that vote, so each vote costs more; where there are no
others, they also count as answers that nobody shares, since attempts at one problem tend to fail together.
The range of theta was chosen by hand among five, by what they did on recorded and made-up attempts.

Ewens 1972, "The sampling theory of selectively neutral alleles"; Antoniak 1974, "Mixtures of Dirichlet
processes"; DeGroot 1970, "Optimal Statistical Decisions", ch. 12 (the induction).
"""

import math
from functools import lru_cache
from typing import NamedTuple

THETAS = tuple(2.0**power for power in range(-1, 10))
HORIZON = 8
"""Attempts looked ahead at most: the states grow with the partitions of the votes."""

Counts = tuple[int, ...]


class Prospects(NamedTuple):
    """What a vote promises.

    Args:
        now: probability that the leader is right.
        value: the same after the best way on, less its cost; at least `now`.
        needed: fewest further votes after which stopping may be best; 0 if it is best now.
    """

    now: float
    value: float
    needed: int


def prospects(counts: Counts, blanks: int, cost: float, attempts: int) -> Prospects:
    """Look ahead from a vote.

    Args:
        counts: votes of the different answers, in any order.
        blanks: attempts that gave no answer.
        cost: of one further attempt, in right answers, above 0.
        attempts: how many more there can be; with none left, stopping is best.
    """
    # Attempts for each vote, by Laplace's rule of succession.
    answered = sum(counts)
    thinned = (answered + blanks + 1) / (answered + 1)
    votes = min(math.ceil(attempts / thinned), HORIZON)
    unshared = 0 if counts else blanks
    return _prospects(tuple(sorted(counts, reverse=True)), unshared, _rounded(cost * thinned), votes)


def _rounded(cost: float) -> float:
    """Two significant digits: more would only fill the cache."""
    return float(f"{max(cost, 1e-9):.1e}")


# A problem visits some hundred states; the bound only guards a process that lives for days.
@lru_cache(maxsize=200_000)
def _prospects(counts: Counts, blanks: int, cost: float, attempts: int) -> Prospects:
    repeat = _repeat(len(counts) + blanks, sum(counts) + blanks)
    now = (counts[0] if counts else 0) * repeat
    if attempts == 0:
        return Prospects(now, now, 0)
    value, needed = -cost, attempts
    for index, count in enumerate(counts):
        if index and count == counts[index - 1]:
            continue
        # Equal counts stay sorted when the first of them grows.
        after = (*counts[:index], count + 1, *counts[index + 1 :])
        then = _prospects(after, blanks, cost, attempts - 1)
        value += counts.count(count) * count * repeat * then.value
        needed = min(needed, 1 + then.needed)
    then = _prospects((*counts, 1), blanks, cost, attempts - 1)
    value += (1 - sum(counts) * repeat) * then.value
    needed = min(needed, 1 + then.needed)
    return Prospects(now, value, needed) if value > now else Prospects(now, now, 0)


@lru_cache(maxsize=10_000)
def _repeat(different: int, attempts: int) -> float:
    """E[1 / (n + theta)] under the posterior: probability that the next attempt repeats one given attempt."""
    logs = [
        different * math.log(theta) + math.lgamma(theta) - math.lgamma(theta + attempts) for theta in THETAS
    ]
    weights = [math.exp(log - max(logs)) for log in logs]
    mean = sum(weight / (attempts + theta) for weight, theta in zip(weights, THETAS, strict=True))
    return mean / sum(weights)
