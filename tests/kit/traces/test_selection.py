"""Which traces are chosen, worked out by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.traces.selection import Candidate, Select, choose, distance

A = Candidate(0, (1, 2, 3, 4, 5, 6))
B = Candidate(1, (1, 2, 3, 4, 5))
C = Candidate(2, (9, 8, 7, 6, 5, 4, 3))
D = Candidate(3, (1, 2, 3, 4, 5))  # the same as B


def attempts(select: Select, keep: int | None) -> list[int]:
    return [candidate.attempt for candidate in choose([C, D, A, B], select, keep)]


def test_distance_of_sets_worked_out_by_hand() -> None:
    # A has the grams 1234, 2345, 3456; B has 1234, 2345: 2 shared of 3.
    assert distance(A.ids, B.ids) == pytest.approx(1 / 3)
    assert distance(A.ids, C.ids) == 1
    assert distance((1, 2), (1, 2)) == 0
    assert distance((1, 2), (2, 1)) == 1
    assert distance((1, 2, 3), (3, 2, 1), gram=1) == 0
    assert distance((), ()) == 0


def test_identical_completions_count_once() -> None:
    assert attempts("all", None) == [0, 1, 2]
    assert attempts("all", 2) == [0, 1]


def test_shortest_first_ties_by_attempt() -> None:
    assert attempts("shortest", 1) == [1]
    assert attempts("shortest", None) == [1, 0, 2]
    same = [Candidate(5, (1, 2)), Candidate(4, (2, 1))]
    assert [candidate.attempt for candidate in choose(same, "shortest", 1)] == [4]


def test_diverse_begins_with_the_shortest_and_goes_far() -> None:
    assert attempts("diverse", 1) == [1]
    assert attempts("diverse", 2) == [1, 2]
    assert attempts("diverse", 9) == [1, 2, 0]


def test_nothing_to_choose_from() -> None:
    for select in ("all", "shortest", "diverse"):
        assert choose([], select, 3) == []


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="keep 0"):
        choose([A], "all", 0)
    with pytest.raises(ValueError, match="'longest' is unknown"):
        choose([A], "longest", 1)  # type: ignore[arg-type]


IDS = st.lists(st.lists(st.integers(0, 3), max_size=8), max_size=7)


@given(IDS, st.integers(1, 4), st.sampled_from(["all", "shortest", "diverse"]), st.randoms())
def test_the_order_given_does_not_matter(
    rows: list[list[int]], keep: int, select: Select, random: object
) -> None:
    candidates = [Candidate(attempt, tuple(ids)) for attempt, ids in enumerate(rows)]
    chosen = choose(candidates, select, keep)
    random.shuffle(candidates)  # type: ignore[attr-defined]
    assert choose(candidates, select, keep) == chosen
    assert len(chosen) == min(keep, len({tuple(ids) for ids in rows}))
    assert len({candidate.ids for candidate in chosen}) == len(chosen)


@given(IDS, st.integers(2, 3))
def test_greedy_is_within_half_of_the_best_spread(rows: list[list[int]], keep: int) -> None:
    """Holds when the greedy choice may begin anywhere, so in particular with the shortest (Gonzalez 1985)."""
    candidates = [Candidate(attempt, tuple(ids)) for attempt, ids in enumerate(rows)]
    chosen = choose(candidates, "diverse", keep)
    different = choose(candidates, "all", None)
    if len(chosen) < keep:
        return

    def spread(some: tuple[Candidate, ...]) -> float:
        return min(distance(a.ids, b.ids) for a, b in itertools.combinations(some, 2))

    best = max(spread(some) for some in itertools.combinations(different, keep))
    assert 2 * spread(tuple(chosen)) >= best - 1e-12
