"""Adaptive consistency: stop when the leader most likely is the majority.

Aggarwal et al. 2023, "Let's Sample Step by Step: Adaptive-Consistency for Efficient Reasoning and Coding with
LLMs", the beta criterion: only the two leading answers count, with votes v1 >= v2 and a uniform prior, and

    P(p1 > 1/2 | v1, v2) = 1 - I_{1/2}(v1 + 1, v2 + 1) >= threshold        (they take 0.95)
"""

import math

from submission.policies.situation import Decision, Policy, Situation, ended, keep_running, tally


def adaptive_consistency(threshold: float = 0.95, width: int = 1) -> Policy:
    """Draw attempts `width` at a time (one in the paper) until the leader's posterior reaches `threshold`.

    Raises:
        ValueError: `threshold` outside (1/2, 1), or `width` below 1.
    """
    if not 0.5 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; it must lie between 1/2 and 1")
    if width < 1:
        raise ValueError(f"width is {width}; it must be at least 1")

    def decide(situation: Situation) -> Decision:
        ranked = tally(situation)
        second = ranked[1][1] if len(ranked) > 1 else 0
        if ranked and majority_probability(ranked[0][1], second) >= threshold:
            return Decision(stop="agree", answer=ranked[0][0])
        return ended(situation) or keep_running(situation, width)

    return decide


def majority_probability(first: int, second: int) -> float:
    """P(p > 1/2) for p ~ Beta(first + 1, second + 1): at most `first` heads of first + second + 1 coins.

    Exact, since the incomplete beta function at 1/2 with whole parameters is a binomial tail.
    """
    coins = first + second + 1
    few: int = sum(math.comb(coins, heads) for heads in range(first + 1))
    return few / (1 << coins)
