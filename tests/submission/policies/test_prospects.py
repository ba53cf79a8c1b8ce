"""The model of votes and what further ones may change, against sums written out and a search by force."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from submission.policies.prospects import CHANGE, THETAS, _repeat, gain

counts = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def test_the_first_repeat_by_hand() -> None:
    # After one attempt theta keeps its prior: the mean of 1 / (1 + theta).
    assert _repeat(1, 1) == pytest.approx(sum(1 / (1 + theta) for theta in THETAS) / len(THETAS))
    # Two attempts that agree: weights 1 / (1 + theta); a repeat of one given attempt 1 / (2 + theta).
    weights = [1 / (1 + theta) for theta in THETAS]
    mean = sum(weight / (2 + theta) for weight, theta in zip(weights, THETAS, strict=True)) / sum(weights)
    assert _repeat(1, 2) == pytest.approx(mean)


@given(votes=counts)
def test_chances_are_a_martingale(votes: tuple[int, ...]) -> None:
    """The chance of an answer now is its mean chance after one more vote."""
    n, m, first = sum(votes), len(votes), votes[0]
    repeat = _repeat(m, n)
    after = first * repeat * (first + 1) * _repeat(m, n + 1)
    after += (n - first) * repeat * first * _repeat(m, n + 1)
    after += (1 - n * repeat) * first * _repeat(m + 1, n + 1)
    assert after == pytest.approx(first * repeat)


def test_one_draw_by_hand() -> None:
    # 2 against 1: a vote for the rival draws level, and half of such ties are lost. No blank in three: 1 / 8.
    assert gain((2, 1), 0, 1) == pytest.approx(7 / 8 * _repeat(2, 3) * CHANGE / 2)
    # 1 against 1: the rival overtakes with a repeat, 2 of 3 votes; a new answer leaves three level, of which
    # two are others; a blank leaves the tie of two.
    level = 5 / 6 * ((1 - 2 * _repeat(2, 2)) * CHANGE * 2 / 3) + 1 / 6 * CHANGE / 2
    assert gain((1, 1), 0, 1) == pytest.approx(5 / 6 * _repeat(2, 2) * (CHANGE + 1 / 3) + level)
    # Nothing so far: a first answer after two blanks is one of three.
    assert gain((), 2, 1) == pytest.approx((1 - 2.5 / 3) * (CHANGE + 1 / 3))


def test_a_leader_out_of_reach_has_nothing_to_lose() -> None:
    assert gain((4,), 0, 3) == gain((5, 1), 2, 3) == gain((7, 2, 2), 0, 4) == gain((3,), 1, 0) == 0
    assert gain((4, 1), 0, 3) > 0


def by_force(leader: str, said: tuple[str, ...], draws: int) -> float:
    """Every sequence of answers followed on its own; "" is none."""
    voted = [answer for answer in said if answer]
    tallied = {answer: voted.count(answer) for answer in voted}
    mine = tallied.get(leader, 0)
    if not draws:
        most = max(tallied.values(), default=0)
        if mine == most:
            level = sum(count == most for count in tallied.values())
            return CHANGE * (level - 1) / level if level else 0.0
        return CHANGE + (most - mine) / len(said)
    blank = (len(said) - len(voted) + 0.5) / (len(said) + 1)
    repeat = _repeat(len(tallied), len(voted)) if voted else 0.0
    value = blank * by_force(leader, (*said, ""), draws - 1)
    for answer in voted:
        value += (1 - blank) * repeat * by_force(leader, (*said, answer), draws - 1)
    new = (1 - blank) * (1 - len(voted) * repeat)
    return value + new * by_force(leader, (*said, f"new {len(said)}"), draws - 1)


@settings(deadline=None, max_examples=40)
@given(said=st.lists(st.sampled_from("aabc"), max_size=4), blanks=st.integers(0, 2), draws=st.integers(1, 3))
def test_the_recursion_is_the_search_by_force(said: list[str], blanks: int, draws: int) -> None:
    tallied = {answer: said.count(answer) for answer in said}
    leader = max(tallied, key=lambda answer: tallied[answer], default="none")
    everything = (*said, *[""] * blanks)
    found = gain(tuple(tallied.values()), blanks, draws)
    assert found == pytest.approx(by_force(leader, everything, draws))


@given(votes=counts, blanks=st.integers(0, 4), draws=st.integers(1, 5))
def test_agreement_leaves_less_to_change(votes: tuple[int, ...], blanks: int, draws: int) -> None:
    first, *others = sorted(votes, reverse=True)
    assert gain((first + 1, *others), blanks, draws) <= gain((first, *others), blanks, draws) + 1e-12
    assert gain(votes, blanks, draws) == gain(votes[::-1], blanks, draws)
    assert 0 <= gain(votes, blanks, draws) <= 1


def test_long_votes_do_not_overflow() -> None:
    assert math.isfinite(gain((500, 499), 100, 8))
