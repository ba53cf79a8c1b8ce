from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from submission.votes import decided, leader, tally

votes = st.lists(st.none() | st.integers(0, 4), max_size=12)


def test_most_votes_first_and_ties_by_arrival() -> None:
    assert tally([3, None, 5, 5, 3, 7]) == [(3, 2), (5, 2), (7, 1)]
    assert leader([3, None, 5, 5, 3, 7]) == 3
    assert leader([None, None]) is None


def test_enough_agree() -> None:
    assert decided([1, 1, 2, 1], 8, agree=3) == "agree"
    assert decided([1, 1, 2], 8, agree=3) is None


def test_leader_cannot_be_caught() -> None:
    # 4 against 1 with 2 open: the runner-up reaches 3 at most.
    assert decided([1, 1, 1, 1, 2, 3], 8, agree=None) == "uncatchable"
    # 4 against 2 with 2 open: a draw is possible.
    assert decided([1, 1, 1, 1, 2, 2], 8, agree=None) is None
    # 4 against none with 4 open, all of which may yet agree on another answer.
    assert decided([1, 1, 1, 1], 8, agree=None) is None


def test_all_finished() -> None:
    assert decided([None, None], 2, agree=None) == "all finished"
    assert decided([], 0, agree=2) == "all finished"


@given(votes, st.integers(0, 6), st.lists(st.none() | st.integers(0, 4), max_size=6))
def test_an_uncatchable_leader_stays_the_leader(
    given_votes: list[int | None], open_: int, rest: list[int | None]
) -> None:
    if decided(given_votes, len(given_votes) + open_, agree=None) == "uncatchable":
        assert leader(given_votes + rest[:open_]) == leader(given_votes)


@given(votes)
def test_the_leader_has_the_most_votes(given_votes: list[int | None]) -> None:
    counts = Counter(vote for vote in given_votes if vote is not None)
    winner = leader(given_votes)
    assert (winner is None) == (not counts)
    if winner is not None:
        assert counts[winner] == max(counts.values())
