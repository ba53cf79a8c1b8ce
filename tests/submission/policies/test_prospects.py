"""The model of votes and its optimal stopping, against sums written out and a search by force."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from submission.policies.prospects import THETAS, _repeat, prospects

counts = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def test_the_first_repeat_by_hand() -> None:
    # After one attempt theta keeps its prior: the mean of 1 / (1 + theta).
    assert _repeat(1, 1) == pytest.approx(sum(1 / (1 + theta) for theta in THETAS) / len(THETAS))
    # Two attempts that agree: weights 1 / (1 + theta); a repeat of one given attempt 1 / (2 + theta).
    weights = [1 / (1 + theta) for theta in THETAS]
    mean = sum(weight / (2 + theta) for weight, theta in zip(weights, THETAS, strict=True)) / sum(weights)
    assert _repeat(1, 2) == pytest.approx(mean)
    assert prospects((2,), 0, 0.5, 8).now == pytest.approx(2 * mean)


@given(votes=counts)
def test_chances_are_a_martingale(votes: tuple[int, ...]) -> None:
    """The chance of an answer now is its mean chance after one more attempt."""
    n, m, first = sum(votes), len(votes), votes[0]
    repeat = _repeat(m, n)
    after = first * repeat * (first + 1) * _repeat(m, n + 1)
    after += (n - first) * repeat * first * _repeat(m, n + 1)
    after += (1 - n * repeat) * first * _repeat(m + 1, n + 1)
    assert after == pytest.approx(first * repeat)


def by_force(votes: tuple[int, ...], cost: float, attempts: int) -> float:
    """Value of the best way on, every answer followed on its own."""
    repeat = _repeat(len(votes), sum(votes))
    stop = max(votes) * repeat
    if not attempts:
        return stop
    on = -cost + (1 - sum(votes) * repeat) * by_force((*votes, 1), cost, attempts - 1)
    for index, count in enumerate(votes):
        after = (*votes[:index], count + 1, *votes[index + 1 :])
        on += count * repeat * by_force(after, cost, attempts - 1)
    return max(stop, on)


@settings(deadline=None, max_examples=30)
@given(votes=counts, cost=st.sampled_from([0.001, 0.01, 0.05]), attempts=st.integers(0, 3))
def test_the_induction_is_the_search_by_force(votes: tuple[int, ...], cost: float, attempts: int) -> None:
    found = prospects(votes, 0, cost, attempts)
    assert found.value == pytest.approx(by_force(votes, cost, attempts))
    assert (found.needed == 0) == (found.value == found.now)
    assert found.needed <= attempts


@given(votes=counts, blanks=st.integers(0, 4), cost=st.floats(1e-4, 0.1))
def test_more_agreement_is_worth_more_and_dearer_attempts_less(
    votes: tuple[int, ...], blanks: int, cost: float
) -> None:
    most = max(votes)
    agreed = tuple(sorted(votes, reverse=True))
    here = prospects(votes, blanks, cost, 4)
    assert prospects((most + 1, *agreed[1:]), blanks, cost, 4).now > here.now
    assert prospects(votes, blanks, cost * 2, 4).value <= here.value + 1e-12
    assert here.now <= here.value < 1


def test_a_close_vote_is_worth_more_attempts_than_a_clear_one() -> None:
    def gain(*votes: int) -> float:
        found = prospects(votes, 0, 0.001, 8)
        return found.value - found.now

    assert gain(2, 2) > gain(3, 1) > gain(4) == 0
    assert gain(1, 1) > gain(1, 1, 1, 1) > gain(*[1] * 8)


def test_attempts_without_an_answer_make_votes_dearer() -> None:
    # Four of five attempts answer nothing: by Laplace's rule a vote takes (5 + 1) / (1 + 1) attempts.
    assert prospects((1,), 4, 0.002, 24) == prospects((1,), 0, 0.006, 8)


def test_long_votes_do_not_overflow() -> None:
    assert math.isfinite(prospects((500, 300), 100, 0.001, 1_000).value)
