"""Which correct traces of one problem to keep. Pure: the same candidates give the same choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Select = Literal["all", "shortest", "diverse"]
DEFAULT_KEEP: dict[Select, int | None] = {"all": None, "shortest": 1, "diverse": 2}
GRAM = 4
"""Tokens of an n-gram: long enough that sharing one means sharing a turn of phrase or a formula."""


@dataclass(frozen=True)
class Candidate:
    """One correct completion: which attempt it was, and its token ids."""

    attempt: int
    ids: tuple[int, ...]


def choose(candidates: Sequence[Candidate], select: Select, keep: int | None) -> list[Candidate]:
    """The chosen candidates, at most `keep` of them (None: no limit); identical completions count once.

    - `all`: in order of attempt.
    - `shortest`: fewest tokens first, ties by attempt.
    - `diverse`: greedy max-min (farthest-first traversal, Gonzalez 1985) on `distance`, begun with the
      shortest; ties go to the shorter, then to the earlier attempt. Its smallest distance between two
      chosen is at least half of the best possible. O(candidates * keep * tokens).

    Raises:
        ValueError: `keep` is not positive, or `select` is unknown.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep {keep} must be at least 1")
    different = _different(candidates)
    by_length = sorted(different, key=lambda candidate: (len(candidate.ids), candidate.attempt))
    limit = len(different) if keep is None else keep
    if select == "all":
        return different[:limit]
    if select == "shortest":
        return by_length[:limit]
    if select == "diverse":
        return _farthest_first(by_length, limit)
    raise ValueError(f"select {select!r} is unknown; choose all, shortest or diverse")


def distance(first: Sequence[int], second: Sequence[int], gram: int = GRAM) -> float:
    """Jaccard distance of the two sets of token n-grams: 0 for equal sets, 1 for disjoint ones.

    A sequence shorter than `gram` is its own single n-gram.
    """
    return _jaccard(_grams(first, gram), _grams(second, gram))


def _different(candidates: Sequence[Candidate]) -> list[Candidate]:
    first: dict[tuple[int, ...], Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.attempt):
        first.setdefault(candidate.ids, candidate)
    return list(first.values())


def _farthest_first(by_length: Sequence[Candidate], limit: int) -> list[Candidate]:
    if not by_length:
        return []
    grams = [_grams(candidate.ids, GRAM) for candidate in by_length]
    chosen = [0]
    nearest = [_jaccard(grams[0], other) for other in grams]
    while len(chosen) < min(limit, len(by_length)):
        rest = [index for index in range(len(by_length)) if index not in chosen]
        # max() takes the first of equals: the shorter one.
        best = max(rest, key=lambda index: nearest[index])
        chosen.append(best)
        nearest = [min(old, _jaccard(grams[best], other)) for old, other in zip(nearest, grams, strict=True)]
    return [by_length[index] for index in chosen]


def _grams(ids: Sequence[int], gram: int) -> frozenset[tuple[int, ...]]:
    return frozenset(tuple(ids[at : at + gram]) for at in range(max(1, len(ids) - gram + 1)))


def _jaccard(first: frozenset[tuple[int, ...]], second: frozenset[tuple[int, ...]]) -> float:
    shared = len(first & second)
    return 1.0 - shared / (len(first) + len(second) - shared)
