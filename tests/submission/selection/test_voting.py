import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.selection.voting import best_of_n, majority, standings

answers = st.lists(st.none() | st.integers(0, 4), max_size=10)
hostile = st.floats(allow_nan=True, allow_infinity=True)
fair = st.floats(0, 1, width=16)


@st.composite
def weighted(
    draw: st.DrawFn, weight: st.SearchStrategy[float] = fair
) -> tuple[list[int | None], list[float]]:
    """Answers, and a weight for each."""
    votes = draw(answers)
    return votes, draw(st.lists(weight, min_size=len(votes), max_size=len(votes)))


def order(found: list[int | None], weights: list[float]) -> list[object]:
    return [one.answer for one in standings(found, weights)]


def test_totals_by_hand() -> None:
    found = standings([7, None, 8, 7], [0.25, 1.0, 0.5, 0.125])
    assert [(one.answer, one.total, one.count, one.first) for one in found] == [
        (8, 1.0, 1, 2),
        (7, 0.75, 2, 0),
    ]
    assert standings([None], [1.0]) == []
    assert standings([], []) == []


def test_ties_by_count_then_arrival() -> None:
    assert order([1, 2, 2], [1.0, 0.5, 0.5]) == [2, 1], "equal totals: more candidates"
    assert order([2, 1], [0.5, 0.5]) == [2, 1], "equal counts, too: who came first"
    # 0.1 + 0.2 is not 0.3 in floating point: the rounding is no reason to win.
    assert order([1, 2, 2], [0.3, 0.1, 0.2]) == [2, 1]
    assert order([2, 1, 1], [0.1 + 0.2, 0.3, 0.0]) == [1, 2]


@given(answers)
def test_equal_weights_are_the_plain_vote(votes: list[int | None]) -> None:
    ranked = majority(votes)
    counts = Counter(vote for vote in votes if vote is not None).most_common()  # sorts stably
    assert [(one.answer, one.count) for one in ranked] == counts
    assert {one.answer: one.count for one in ranked} == Counter(vote for vote in votes if vote is not None)


@given(weighted(), st.floats(1e-300, 1e300))
def test_a_common_factor_changes_nothing(case: tuple[list[int | None], list[float]], factor: float) -> None:
    votes, weights = case
    assert order(votes, weights) == order(votes, [weight * factor for weight in weights])


@given(weighted(), st.randoms())
def test_order_matters_in_a_full_tie_alone(
    case: tuple[list[int | None], list[float]], random: object
) -> None:
    votes, weights = case
    pairs = list(zip(votes, weights, strict=True))
    random.shuffle(pairs)  # type: ignore[attr-defined]  # hypothesis gives a Random
    before = {one.answer: (one.total, one.count) for one in standings(votes, weights)}
    after = standings([vote for vote, _ in pairs], [weight for _, weight in pairs])
    assert {one.answer: (one.total, one.count) for one in after} == before
    if after:
        winner = standings(votes, weights)[0].answer
        assert before[after[0].answer] == pytest.approx(before[winner])


@given(weighted(hostile))
def test_any_weights_give_an_answer_of_the_candidates(case: tuple[list[int | None], list[float]]) -> None:
    votes, weights = case
    ranked = standings(votes, weights)
    assert {one.answer for one in ranked} == set(votes) - {None}
    assert all(math.isfinite(one.total) for one in ranked)
    usable = [weight if math.isfinite(weight) and weight > 0 else 0.0 for weight in weights]
    assert order(votes, usable) == [one.answer for one in ranked]


def test_broken_weights_never_win() -> None:
    for broken in (math.nan, math.inf, -math.inf, -3.0):
        assert order([1, 2], [broken, 1e-300]) == [2, 1], broken
        assert order([1, 2, 2], [broken] * 3) == [2, 1], "nothing known: the plain vote"
    assert order([1, 1, 2], [1e308, 1e308, 1.7e308]) == [1, 2], "sums that overflow"


def test_best_of_n_by_hand() -> None:
    found = best_of_n([1, 1, 2, None], [0.5, 0.6, 0.7, 0.9])
    assert [(one.answer, one.total) for one in found] == [(2, 1.0), (1, 2 / 3)]
    assert best_of_n([1, 2, 2], [0.5, 0.5, 0.1])[0].answer == 2, "equal scores: more candidates"
    assert best_of_n([2, 1], [-4.0, -4.0])[0].answer == 2, "then the first, of any scale"
    assert best_of_n([1, 2], [math.nan, -1e9])[0].answer == 2
    assert best_of_n([1, 2, 2], [math.nan] * 3)[0].answer == 2
    assert best_of_n([None], [1.0]) == []


@given(weighted(hostile))
def test_best_of_n_takes_a_greatest_score(case: tuple[list[int | None], list[float]]) -> None:
    votes, scores = case
    known = [one for vote, one in zip(votes, scores, strict=True) if vote is not None and math.isfinite(one)]
    ranked = best_of_n(votes, scores)
    assert {one.answer for one in ranked} == set(votes) - {None}
    if known:
        mine = [one for vote, one in zip(votes, scores, strict=True) if vote == ranked[0].answer]
        assert max(known) in mine
