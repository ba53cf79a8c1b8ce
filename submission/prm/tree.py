"""Sequences that share beginnings as one tree of tokens, so that a shared token is computed once.

The tokens lie in depth-first order. A token then sees, of all tokens before it, those whose subtree it is in
(tree attention, Miao et al. 2024, SpecInfer, arXiv 2305.09781): t sees s where s <= t < ends[s].
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tree:
    """Tokens of all sequences, shared ones once, in depth-first order; all lists but `places` are parallel.

    Args:
        ids: token ids.
        depths: position in the sequence, from 0.
        parents: index of the token before; -1 of a first one.
        ends: index behind the last token of the subtree below.
        places: of each given sequence, the index of each of its tokens.
    """

    ids: list[int]
    depths: list[int]
    parents: list[int]
    ends: list[int]
    places: list[list[int]]


def grow(sequences: Sequence[Sequence[int]]) -> Tree:
    """The tree of sequences; equal ones share all of it. Time: sorting them, then linear in their tokens."""
    ids: list[int] = []
    depths: list[int] = []
    parents: list[int] = []
    places: list[list[int]] = [[] for _ in sequences]
    before: Sequence[int] = ()
    path: list[int] = []
    # In lexicographic order, what a sequence shares with any earlier one it shares with the last one.
    for number in sorted(range(len(sequences)), key=lambda number: tuple(sequences[number])):
        sequence = sequences[number]
        shared = _shared(before, sequence)
        path = path[:shared]
        for depth in range(shared, len(sequence)):
            parents.append(path[-1] if path else -1)
            path.append(len(ids))
            ids.append(sequence[depth])
            depths.append(depth)
        places[number] = path
        before = sequence
    ends = list(range(1, len(ids) + 1))
    for index in range(len(ids) - 1, -1, -1):
        parent = parents[index]
        if parent >= 0:
            ends[parent] = max(ends[parent], ends[index])
    return Tree(ids, depths, parents, ends, places)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
