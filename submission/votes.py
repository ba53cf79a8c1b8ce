"""Majority vote and its stopping rules, as pure functions over the answers in order of arrival.

A vote of None is a sample without an answer: it counts as finished, but for nobody. Wang et al. 2022,
"Self-Consistency Improves Chain of Thought Reasoning" (the plain majority vote).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence


def tally(votes: Sequence[int | None]) -> list[tuple[int, int]]:
    """(answer, count) pairs, most votes first; equal counts in order of the answers' first arrival."""
    # Counter keeps insertion order and most_common sorts stably.
    return Counter(vote for vote in votes if vote is not None).most_common()


def leader(votes: Sequence[int | None], scores: Mapping[int, float] | None = None) -> int | None:
    """The answer with the most votes; None without any vote.

    Equal counts are decided by `scores` (higher is better, absent is least), then by the first arrival.
    """
    ranked = tally(votes)
    if not ranked:
        return None
    most = ranked[0][1]
    tied = [answer for answer, count in ranked if count == most]
    return max(tied, key=lambda answer: (scores or {}).get(answer, -math.inf))


def decided(votes: Sequence[int | None], max_attempts: int, agree: int | None) -> str | None:
    """Why no further sample can matter, or None if it may.

    Args:
        votes: answers of the finished samples.
        max_attempts: samples that will be drawn at most, the finished ones included.
        agree: votes that end the problem at once; None switches this rule off.

    Returns:
        "all finished", "agree" (the leader has `agree` votes), "uncatchable" (the runner-up would stay
        behind even if every open sample voted for it), or None.
    """
    ranked = tally(votes)
    outstanding = max_attempts - len(votes)
    first = ranked[0][1] if ranked else 0
    second = ranked[1][1] if len(ranked) > 1 else 0
    if agree is not None and first >= agree:
        return "agree"
    if outstanding <= 0:
        return "all finished"
    if first > second + outstanding:
        return "uncatchable"
    return None
