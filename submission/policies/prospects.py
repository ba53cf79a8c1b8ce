"""What further attempts may change: a vote whose answers are unknown beforehand, drawn to its end.

Attempts at one problem are alike but not independent: some problems draw one answer again and again, others
a new one each time. The Chinese restaurant process says so with one number, theta: after n votes the next
one repeats an answer with c votes with probability c / (n + theta) and gives a new one with probability
theta / (n + theta). Theta is not known, so it gets a prior that is flat in its logarithm, from 1/2 to 512: it
leans towards disagreement, so that agreement has to show itself. The posterior follows from Ewens' sampling
formula and depends on nothing but the number of votes and of different answers among them:

    P(n votes, m different answers | theta)  ~  theta^m / (theta (theta + 1) ... (theta + n - 1))

An attempt without an answer is a missing vote; its probability is Krichevsky and Trofimov's estimate.

Ewens 1972, "The sampling theory of selectively neutral alleles"; Antoniak 1974, "Mixtures of Dirichlet
processes"; Krichevsky and Trofimov 1981, "The performance of universal encoding".
"""

import math
from functools import lru_cache

THETAS = tuple(2.0**power for power in range(-1, 10))
CHANGE = 0.1
"""Right answers that a leader loses by being overtaken at all, beyond the difference in votes: the majority
is right more often than its share of the votes says, and what is overtaken was not the majority."""

Counts = tuple[int, ...]


def gain(counts: Counts, blanks: int, draws: int) -> float:
    """Right answers that the leader of the vote stands to lose to the leader after `draws` more attempts.

    An answer is taken to be right with the probability of its share of all attempts at the end; overtaking
    wins `CHANGE` on top of the difference. Of answers that end level with the old leader, one of which is
    picked at random, any of the others wins `CHANGE` alone. No answer counts as a leader without votes.

    Args:
        counts: votes of the different answers, in any order; of equal ones the leader is any.
        blanks: attempts that gave no answer.
        draws: further attempts.
    """
    first, *others = sorted(counts, reverse=True) or [0]
    return _gain(first, tuple(others), blanks, draws)


# A problem visits some hundred states; the bound only guards a process that lives for days.
@lru_cache(maxsize=200_000)
def _gain(leader: int, others: Counts, blanks: int, draws: int) -> float:
    best = others[0] if others else 0
    if leader > best + draws or not (best or draws):
        return 0.0
    votes = leader + sum(others)
    if draws == 0:
        if best == leader:
            level = others.count(best)
            return CHANGE * level / (level + 1)
        return CHANGE + (best - leader) / (votes + blanks)
    blank = (blanks + 0.5) / (votes + blanks + 1)
    repeat = _repeat(len(others) + (leader > 0), votes) if votes else 0.0
    value = leader * repeat * _gain(leader + 1, others, blanks, draws - 1)
    for index, count in enumerate(others):
        if index and count == others[index - 1]:
            continue
        # Equal counts stay sorted when the first of them grows.
        after = (*others[:index], count + 1, *others[index + 1 :])
        value += others.count(count) * count * repeat * _gain(leader, after, blanks, draws - 1)
    value += (1 - votes * repeat) * _gain(leader, (*others, 1), blanks, draws - 1)
    return (1 - blank) * value + blank * _gain(leader, others, blanks + 1, draws - 1)


@lru_cache(maxsize=10_000)
def _repeat(different: int, votes: int) -> float:
    """E[1 / (n + theta)] under the posterior: probability that the next vote repeats one given vote."""
    logs = [different * math.log(theta) + math.lgamma(theta) - math.lgamma(theta + votes) for theta in THETAS]
    weights = [math.exp(log - max(logs)) for log in logs]
    mean = sum(weight / (votes + theta) for weight, theta in zip(weights, THETAS, strict=True))
    return mean / sum(weights)
