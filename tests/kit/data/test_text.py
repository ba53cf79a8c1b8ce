import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.data.text import letters, numbers, prose, tokens, words


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"Find $\dfrac{1}{2}$.", r"find \frac{1}{2}"),
        (r"$x \leq 5\,$", r"\(x\le 5\)"),
        (r"\left( 3, \pi \right)", "(3,\\pi)"),
        ("What is 2 − 1?", "What is 2-1"),  # noqa: RUF001 (a minus sign, as sets write it)
        ("Return your final response within \\boxed{}. What is $1+1$?", "What is 1 + 1?"),
        (
            "Compute 3!. Please reason step by step, and put your final answer within \\boxed{}.",
            "Compute 3!",
        ),
    ],
)
def test_layout_is_no_difference(left: str, right: str) -> None:
    assert tokens(left) == tokens(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [("x + 1 = 0", "x - 1 = 0"), (r"\tan 22.5", r"\tan 225"), ("5!", "5"), ("a < b", "a > b"), ("12", "1 2")],
)
def test_signs_and_numbers_are_a_difference(left: str, right: str) -> None:
    assert tokens(left) != tokens(right)


def test_words_leave_operators_out() -> None:
    assert words(r"Solve $x^2+1=\frac{3}{4}$, 求解") == ["solve", "x", "2", "1", "frac", "3", "4", "求", "解"]


def test_numbers_are_counted_with_repetition() -> None:
    assert numbers("3 apples, 22.5 pears, 3 plums") == ["22.5", "3", "3"]


def test_prose_is_without_formulas_drawings_and_code() -> None:
    text = "Let $x^2$ be [asy]draw((0,0)--(1,1));[/asy] the \\emph{area} of \\(y\\) here ```print(1)``` now"
    assert prose(text) == "Let be the area of here now"


def test_an_unclosed_block_stays() -> None:
    assert "drawing" in prose("before [asy] drawing")


def test_ideographs_count_for_more() -> None:
    assert letters("abc") == 3
    assert letters("数学") == 6


@given(st.text())
def test_every_text_has_tokens_and_they_are_stable(text: str) -> None:
    assert tokens(text)
    assert tokens(text) == tokens(f"  {text}\n")


@pytest.mark.parametrize(
    "piece", ["[asy]", "$", "\\(", "```", "<", "\\", "please ", "return your final response "]
)
def test_hostile_repetition_takes_linear_time(piece: str) -> None:
    begun = time.monotonic()
    text = piece * (250_000 // len(piece))
    prose(text)
    tokens(text)
    assert time.monotonic() - begun < 10
