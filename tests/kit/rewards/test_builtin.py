"""Built-in rewards against values worked out by hand, and their bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.rewards.builtin import answer, format_reward, repetition, tool_success
from kit.rewards.lengths import CosineValues, length_cosine, shorter_when_right
from kit.rewards.prm import PrmReward, aggregate
from submission.answers import parse_gold


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        (r"so \boxed{42}.", 42, 1.0),
        (r"so \boxed{042}.", 42, 1.0),
        (r"so \boxed{41}.", 42, 0.0),
        (r"\boxed{0.5}", r"\frac12", 1.0),
        ("no answer at all, sorry\nreally", 42, 0.0),
        (r"so \boxed{42", 42, 0.0),
    ],
)
def test_answer(text: str, gold: str | int, expected: float) -> None:
    assert answer(text, parse_gold(gold), "stop") == expected


def test_cut_off_completion_is_never_right_unless_it_may() -> None:
    gold = parse_gold(42)
    assert answer(r"\boxed{42} wait", gold, "length") == 0.0
    assert answer(r"\boxed{42} wait", gold, "length", accept_cut_off=True) == 1.0
    assert answer(r"\boxed{41} wait", gold, "length", accept_cut_off=True) == 0.0


def test_without_a_checker_what_needs_algebra_is_wrong() -> None:
    gold = parse_gold(r"\sqrt{8}")
    assert answer(r"\boxed{\sqrt{8}}", gold, "stop") == 1.0
    assert answer(r"\boxed{2\sqrt{2}}", gold, "stop") == 0.0


@pytest.mark.parametrize(
    ("text", "plain", "think"),
    [
        (r"\boxed{1}", 1, 0),
        (r"<think>a</think>\boxed{1}", 1, 1),
        ("\n<think>\na\n</think>\n\nSo \\boxed{1}.", 1, 1),
        (r"<think>\boxed{2}</think>\boxed{1}", 0, 1),
        (r"<think>\boxed{1}</think>", 1, 0),
        (r"a</think>\boxed{1}", 1, 0),
        (r"<think>a\boxed{1}", 1, 0),
        (r"<think>a</think><think>b</think>\boxed{1}", 1, 0),
        (r"<think>a<think>b</think>\boxed{1}", 1, 0),
        (r"<think>a</think></think>\boxed{1}", 1, 0),
        (r"a<think>b</think>\boxed{1}", 1, 0),
        (r"</think><think>\boxed{1}", 1, 0),
        (r"<think>a</think>\boxed{1} or \boxed{2}", 0, 0),
        (r"<think>a</think>\boxed{1} or \boxed{", 0, 0),
        (r"<think>a</think>\boxed{}", 0, 0),
        (r"<think>a</think>\fbox{1}", 1, 1),
        ("42", 0, 0),
        ("", 0, 0),
    ],
)
def test_format(text: str, plain: int, think: int) -> None:
    assert format_reward(text) == plain
    assert format_reward(text, think=True) == think


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a</think>\boxed{1}", 1),
        (r"<think>a</think>\boxed{1}", 1),
        (r"a<think>b</think>\boxed{1}", 0),
        (r"a\boxed{1}", 0),
        (r"a</think>b</think>\boxed{1}", 0),
    ],
)
def test_format_where_the_template_opens_the_thought(text: str, expected: int) -> None:
    assert format_reward(text, think=True, think_in_prompt=True) == expected


@given(st.lists(st.sampled_from(["<think>", "</think>", r"\boxed{", "1", "}", r"\fbox", "\n"])).map("".join))
def test_format_takes_any_text(text: str) -> None:
    assert format_reward(text) in (0, 1)
    assert format_reward(text, think=True) <= format_reward(text, think=True, think_in_prompt=True)


@pytest.mark.parametrize(
    ("tokens", "n", "expected"),
    [
        ([], 1, 0.0),
        ([5], 2, 0.0),
        ([1, 2, 3, 4], 1, 0.0),
        ([1, 1, 1, 1], 1, -0.75),
        ([1, 1, 1, 1], 3, -0.5),
        # ab bc ca ab bc: 3 of 5 are distinct.
        (list("abcabc"), 2, -0.4),
        (["the", "cat", "saw", "the", "cat"], 2, -0.25),
    ],
)
def test_repetition(tokens: list[object], n: int, expected: float) -> None:
    assert repetition(tokens, n) == pytest.approx(expected, abs=1e-15)


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 8))
def test_repetition_stays_in_bounds(tokens: list[int], n: int) -> None:
    value = repetition(tokens, n)
    assert -1 < value <= 0
    assert math.copysign(1, value) == 1 or value < 0
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    assert (value == 0) == (len(set(grams)) == len(grams))


def test_an_n_gram_has_a_token() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        repetition([1], 0)


@pytest.mark.parametrize(("calls", "errors", "expected"), [(0, 0, 0), (4, 1, 0.75), (3, 3, 0), (2, 0, 1)])
def test_tool_success(calls: int, errors: int, expected: float) -> None:
    assert tool_success(calls, errors) == expected


PAPER = CosineValues(2, 1, -10, 0, -10)


@pytest.mark.parametrize(
    ("right", "length", "expected"),
    [
        (True, 0, 2.0),
        (True, 500, 1.5),
        # cos(pi / 3) = 1/2, so three quarters of the way from the end to the start.
        (True, 333.3333333333333, 1.75),
        (False, 0, -10.0),
        (False, 500, -5.0),
        (False, 333.3333333333333, -7.5),
        (True, 1000, -10.0),
        (False, 1000, -10.0),
        (True, 5000, -10.0),
    ],
)
def test_length_cosine(right: bool, length: int, expected: float) -> None:
    assert length_cosine(right, length, 1000, PAPER) == pytest.approx(expected, abs=1e-12)


def test_length_cosine_just_before_the_limit_is_near_the_end_of_its_curve() -> None:
    # 1 - cos(pi (1 - h)) ~ (pi h)^2 / 2 with h = 1e-6, halved by the share.
    assert length_cosine(True, 999_999, 1_000_000) == pytest.approx(0.5 + 0.5 * math.pi**2 / 4 * 1e-12)
    assert length_cosine(False, 999_999, 1_000_000) == pytest.approx(-0.5)


@given(st.booleans(), st.integers(1, 10**6), st.data())
def test_length_cosine_stays_between_its_ends_and_is_monotone(
    right: bool, limit: int, data: st.DataObject
) -> None:
    ends = st.floats(-1e3, 1e3)
    values = CosineValues(*data.draw(st.tuples(ends, ends, ends, ends, ends)))
    first, last = values[:2] if right else values[2:4]
    shorter, longer = sorted(data.draw(st.tuples(st.integers(0, limit - 1), st.integers(0, limit - 1))))
    a, b = (length_cosine(right, length, limit, values) for length in (shorter, longer))
    slack = 1e-12 * (abs(first) + abs(last))
    assert min(first, last) - slack <= a <= max(first, last) + slack
    assert (b - a) * (last - first) >= -slack * (1 + abs(last - first))
    assert length_cosine(right, 0, limit, values) == first
    assert length_cosine(right, limit, limit, values) == values.overlong


def test_length_cosine_wants_a_limit() -> None:
    with pytest.raises(ValueError, match="max_length is 0"):
        length_cosine(True, 0, 0)


@pytest.mark.parametrize(
    ("lengths", "right", "expected"),
    [
        ([], [], []),
        ([7], [True], [0.0]),
        ([7, 7, 7], [True, False, True], [0.0, 0.0, 0.0]),
        ([10, 20, 30], [True, True, True], [0.5, 0.0, -0.5]),
        ([10, 20, 30], [False, False, False], [0.0, 0.0, -0.5]),
        ([10, 15, 25, 30], [False, True, False, True], [0.0, 0.25, -0.25, -0.5]),
    ],
)
def test_shorter_when_right(lengths: list[int], right: list[bool], expected: list[float]) -> None:
    assert shorter_when_right(lengths, right) == expected


@given(st.lists(st.tuples(st.integers(0, 10**5), st.booleans()), max_size=20), st.randoms())
def test_shorter_when_right_is_bounded_and_knows_no_order(
    group: list[tuple[int, bool]], random: object
) -> None:
    rewards = shorter_when_right([length for length, _ in group], [right for _, right in group])
    assert all(-0.5 <= reward <= 0.5 for reward in rewards)
    assert all(reward <= 0 for reward, (_, right) in zip(rewards, group, strict=True) if not right)
    right_ones = sorted(
        (length, -reward) for reward, (length, right) in zip(rewards, group, strict=True) if right
    )
    assert [loss for _, loss in right_ones] == sorted(loss for _, loss in right_ones)
    turned = shorter_when_right([length for length, _ in group[::-1]], [right for _, right in group[::-1]])
    assert turned == rewards[::-1]


@pytest.mark.parametrize(
    ("how", "expected"), [("min", 0.2), ("mean", 0.5), ("last", 0.4), ("product", 0.072)]
)
def test_prm_aggregates(how: str, expected: float) -> None:
    scores = [0.9, 0.2, 0.4]
    assert aggregate(scores, how) == pytest.approx(expected)  # type: ignore[arg-type]  # parametrized
    assert math.isnan(aggregate([], how))  # type: ignore[arg-type]


def test_prm_reward_asks_for_this_completion_and_passes_on_no_nonsense() -> None:
    asked = []

    def scorer(problem: str, completion: str) -> list[float]:
        asked.append((problem, completion))
        return [0.5, math.nan] if completion == "bad" else [0.5, 0.25]

    reward = PrmReward(scorer, "product")
    assert reward("p", "c") == 0.125
    assert math.isnan(reward("p", "bad"))
    assert asked == [("p", "c"), ("p", "bad")]
