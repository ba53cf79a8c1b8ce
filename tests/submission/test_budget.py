from hypothesis import given
from hypothesis import strategies as st

from submission.budget import Budget

seconds = st.floats(0, 1e5)


def budget(**changes: object) -> Budget:
    values: dict[str, object] = {
        "time_limit": 17_400.0,
        "reserve": 200.0,
        "floor": 300.0,
        "cap": 900.0,
        "expected_problems": 50,
    }
    return Budget(**{**values, **changes})  # type: ignore[arg-type] # each test states the types it changes


def test_first_problem_gets_what_the_others_do_not_need() -> None:
    # 17,400 - 200 - 49 x 300 = 2,500 are spare, the cap allows 900.
    assert budget().problem_seconds(0, 0) == 900


def test_unused_time_is_carried_over() -> None:
    # 10 left: 17,200 - 13,000 = 4,200 available, 9 x 300 kept, 1,500 spare: the cap.
    assert budget().problem_seconds(13_000, 40) == 900
    # 10 left: 3,100 available, 2,700 kept for the others, 400 for this one.
    assert budget().problem_seconds(14_100, 40) == 400


def test_fair_share_once_the_floor_is_not_affordable() -> None:
    # 10 left and 2,000 available: 200 each, less than the floor of 300.
    assert budget().problem_seconds(15_200, 40) == 200


def test_no_time_no_seconds() -> None:
    assert budget().problem_seconds(17_200, 3) == 0
    assert budget().problem_seconds(1e9, 3) == 0


def test_unknown_number_takes_a_tenth_of_the_rest() -> None:
    assert budget(expected_problems=None, cap=1e9).problem_seconds(0, 7) == 1_720
    assert budget(cap=1e9).problem_seconds(0, 50) == 1_720  # more problems than announced


@given(
    limit=seconds,
    reserve=seconds,
    floor=seconds,
    cap=st.floats(0.1, 1e5),
    expected=st.none() | st.integers(1, 200),
    problems=st.integers(0, 120),
    used=st.lists(st.floats(0, 1), min_size=120, max_size=120),
)
def test_any_sequence_of_obedient_problems_ends_in_time(
    limit: float,
    reserve: float,
    floor: float,
    cap: float,
    expected: int | None,
    problems: int,
    used: list[float],
) -> None:
    rule = Budget(limit, reserve, floor, cap, expected)
    elapsed = 0.0
    for number in range(problems):
        given_seconds = rule.problem_seconds(elapsed, number)
        assert 0 <= given_seconds <= cap
        elapsed += given_seconds * used[number]
    assert elapsed <= max(0.0, limit - reserve) * (1 + 1e-9)


@given(elapsed=st.floats(0, 17_000), answered=st.integers(0, 49))
def test_others_keep_their_floor_or_a_fair_share(elapsed: float, answered: int) -> None:
    rule = budget()
    given_seconds = rule.problem_seconds(elapsed, answered)
    others = 49 - answered
    rest = rule.available(elapsed) - given_seconds
    fair = rule.available(elapsed) / (others + 1)
    assert rest >= min(300.0, fair) * others - 1e-6
