"""Accuracy against minutes and tokens, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics.budgets import Spending, accuracy_curve, by_tokens, voted_right


def test_a_curve_by_hand() -> None:
    first = Spending((1, 2, 3), ("7", "8", "8"), (True, False, False))
    second = Spending((2, 4), (None, "5"), (False, True))
    # 7 alone, then a tie that the first wins, then 8 has two votes; the other answers at 4 alone.
    assert accuracy_curve([first, second]) == [(0, 0), (1, 0.5), (2, 0.5), (3, 0), (4, 0.5)]


def test_tokens_add_up() -> None:
    assert by_tokens([5, 0, 7]) == (5, 5, 12)


def test_many_costs_are_thinned_and_the_last_stays() -> None:
    problem = Spending(tuple(range(1, 1001)), ("1",) * 1000, (True,) * 1000)
    found = accuracy_curve([problem], points=11)
    assert [budget for budget, _ in found] == [0, *range(100, 1001, 100)]


def test_nothing_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="0 problems"):
        accuracy_curve([])
    assert accuracy_curve([Spending((), (), ())]) == [(0, 0)]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from(["1", "2", None])), max_size=12),
    st.integers(2, 9),
)
def test_every_curve_ends_with_the_vote_of_all(samples: list[tuple[int, str | None]], points: int) -> None:
    costs = by_tokens([tokens for tokens, _ in samples])
    answers = tuple(answer for _, answer in samples)
    problem = Spending(costs, answers, tuple(answer == "1" for answer in answers))
    found = accuracy_curve([problem], points)
    assert found[-1].accuracy == voted_right(problem, 1e9)
    assert [point.budget for point in found] == sorted(point.budget for point in found)
