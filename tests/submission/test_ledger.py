"""The ledger's arithmetic by hand, and its guarantees over any contest."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.ledger import Facts, Ledger

seconds = st.floats(0, 1e5)


def ledger(**changes: object) -> Ledger:
    values: dict[str, object] = {
        "time_limit": 17_400.0,
        "reserve": 200.0,
        "restart": 0.0,
        "floor": 300.0,
        "cap": 900.0,
        "expected_problems": 50,
    }
    return Ledger(**{**values, **changes})  # type: ignore[arg-type] # each test states the types it changes


def test_the_first_problem_gets_what_the_others_do_not_need() -> None:
    # 17,400 - 200 - 49 x 300 = 2,500 are spare, the cap allows 900.
    assert ledger().problem_seconds(Facts()) == 900


def test_unused_time_is_carried_over() -> None:
    # 10 left: 17,200 - 13,000 = 4,200 available, 9 x 300 kept, 1,500 spare: the cap.
    assert ledger().problem_seconds(Facts(elapsed=13_000, answered=40)) == 900
    # 10 left: 3,100 available, 2,700 kept for the others, 400 for this one.
    assert ledger().problem_seconds(Facts(elapsed=14_100, answered=40)) == 400


def test_a_fair_share_once_the_floor_is_not_affordable() -> None:
    # 10 left and 2,000 available: 200 each, less than the floor of 300.
    assert ledger().problem_seconds(Facts(elapsed=15_200, answered=40)) == 200


def test_no_time_no_seconds() -> None:
    for elapsed in (17_200.0, 1e9):
        assert ledger().problem_seconds(Facts(elapsed=elapsed, answered=3)) == 0
        assert ledger().price(Facts(elapsed=elapsed, answered=3)) == math.inf


def test_an_unknown_number_takes_a_tenth_of_the_rest() -> None:
    assert ledger(expected_problems=None, cap=1e9).problem_seconds(Facts(answered=7)) == 1_720


def test_the_last_announced_problem_leaves_something_for_one_that_nobody_announced() -> None:
    rule = ledger(cap=1e9)
    # 1,000 left for the last of fifty: nine tenths. The one after it is one of an unknown number.
    assert rule.problem_seconds(Facts(elapsed=16_200, answered=49)) == 900
    assert rule.problem_seconds(Facts(elapsed=16_950, answered=50)) == 25


def test_a_restart_is_kept_for_until_there_was_one() -> None:
    rule = ledger(restart=400.0)
    assert rule.available(Facts(elapsed=7_200)) == 10_000 - 400
    assert rule.available(Facts(elapsed=7_200, restarted=True)) == 10_000
    # Near the end no more than a tenth of what is left.
    assert rule.available(Facts(elapsed=16_200)) == 900


def test_loading_is_no_problems_loss_alone() -> None:
    # 15 minutes of loading: 17,200 - 900 - 49 x 300 = 1,600 are still spare, and the price is fair.
    loaded = Facts(elapsed=900)
    assert ledger().problem_seconds(loaded) == 900
    assert ledger().fair_seconds(loaded) == 16_300 / 50
    assert ledger().price(loaded) == pytest.approx(0.045 / (16_300 / 50))


def test_a_second_is_cheap_after_easy_problems_and_dear_after_hard_ones() -> None:
    rule = ledger(reserve=0.0, time_limit=10_000.0, expected_problems=10)
    # Four problems took 1,000 each, as the fair share says; 6,000 for six is 1,000 each still.
    assert rule.price(Facts(4_000, 4, 4_000)) == pytest.approx(0.045 / 1_000)
    # They took 250 each: fair is 1,500; with three fair shares the mean is 5,500 / 7, that is 11 / 21 of it.
    assert rule.price(Facts(1_000, 4, 1_000)) == pytest.approx(0.045 / 1_500 * (11 / 21) ** 2)
    # They took 2,200 each: fair is 200; the mean is 9,400 / 7, nearly seven times: its square is cut to 1.5.
    assert rule.price(Facts(8_800, 4, 8_800)) == pytest.approx(0.045 / 200 * 1.5)


@given(
    limit=seconds,
    reserve=seconds,
    restart=seconds,
    floor=seconds,
    cap=st.floats(0.1, 1e5),
    expected=st.none() | st.integers(1, 200),
    loading=st.floats(0, 2e3),
    restart_at=st.none() | st.integers(0, 119),
    used=st.lists(st.floats(0, 1), max_size=120),
)
def test_any_sequence_of_obedient_problems_ends_in_time(
    limit: float,
    reserve: float,
    restart: float,
    floor: float,
    cap: float,
    expected: int | None,
    loading: float,
    restart_at: int | None,
    used: list[float],
) -> None:
    """However many come, however many were announced, with and without the restart that was kept for."""
    rule = Ledger(limit, reserve, restart, floor, cap, expected)
    elapsed, solving, restarted = loading, 0.0, False
    for number, share in enumerate(used):
        if number == restart_at:
            elapsed, restarted = elapsed + _kept(rule, Facts(elapsed, number, solving)), True
        facts = Facts(elapsed, number, solving, restarted)
        given_seconds = rule.problem_seconds(facts)
        assert 0 <= given_seconds <= cap
        assert rule.price(facts) > 0
        elapsed, solving = elapsed + given_seconds * share, solving + given_seconds * share
    assert elapsed <= max(limit - reserve, loading) * (1 + 1e-9)


def _kept(rule: Ledger, facts: Facts) -> float:
    """What the ledger keeps for a restart."""
    free = Facts(facts.elapsed, facts.answered, facts.solving, restarted=True)
    return rule.available(free) - rule.available(facts)


@given(elapsed=st.floats(0, 17_000), answered=st.integers(0, 48), restart=st.floats(0, 600))
def test_the_others_keep_their_floor_or_a_fair_share(elapsed: float, answered: int, restart: float) -> None:
    rule, facts = ledger(restart=restart), Facts(elapsed, answered)
    others = 49 - answered
    rest = rule.available(facts) - rule.problem_seconds(facts)
    assert rest >= min(300.0, rule.fair_seconds(facts)) * others - 1e-6


@given(expected=st.integers(1, 60), extra=st.integers(1, 40), used=st.floats(0.1, 1))
def test_more_problems_than_announced_all_find_time(expected: int, extra: int, used: float) -> None:
    rule, elapsed = ledger(expected_problems=expected), 0.0
    for number in range(expected + extra):
        given_seconds = rule.problem_seconds(Facts(elapsed, number, elapsed))
        assert given_seconds > 0
        elapsed += given_seconds * used


@given(
    elapsed=st.floats(0, 17_000),
    answered=st.integers(0, 70),
    solving=st.floats(0, 17_000),
    more=st.floats(0, 5_000),
)
def test_the_price_rises_with_what_problems_take(
    elapsed: float, answered: int, solving: float, more: float
) -> None:
    cheap = ledger().price(Facts(elapsed, answered, solving))
    assert cheap <= ledger().price(Facts(elapsed, answered, solving + more)) * (1 + 1e-9)
    # With fewer seconds left and the same problems before, too.
    later = Facts(min(elapsed + more, 17_199.0), answered, solving)
    assert cheap <= ledger().price(later) * (1 + 1e-9)
