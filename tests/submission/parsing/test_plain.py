"""Keyboard spellings and styles as LaTeX: each rule on its own, and on text that only looks like it."""

import time

import pytest

from submission.parsing.plain import to_latex


@pytest.mark.parametrize(
    ("typed", "latex"),
    [
        ("3*s**2", "3*s^2"),
        ("**42**", "**42**"),
        ("x^(n+1)", "x^{n+1}"),
        ("pi/2", r"\pi /2"),
        (r"2\pi", r"2\pi"),
        ("pitch", "pitch"),
        ("(-inf, 2)", r"(-\infty , 2)"),
        ("information", "information"),
        ("sin(x)", r"\sin(x)"),
        ("atan(1)", r"\arctan(1)"),
        (r"\sin(x)", r"\sin(x)"),
        ("sin", "sin"),
        ("sqrt(2)", r"\sqrt{2}"),
        ("sqrt((a+b)(c))/2", r"\sqrt{(a+b)(c)}/2"),
        ("sqrt(1+sqrt(2))", r"\sqrt{1+\sqrt{2}}"),
        (r"\sqrt(2)", r"\sqrt{2}"),
        ("sqrt2", r"\sqrt{2}"),
        ("sqrt(2", "sqrt(2"),
        (r"{5 \choose 2}", r"\binom{5 }{ 2}"),
        (r"\langle 1,2\rangle", "( 1,2)"),
        (r"\angle ABC", r"\angle ABC"),
        ("]0,1]", "(0,1]"),
        ("[0,1[", "[0,1)"),
        ("[0,1]", "[0,1]"),
        (r"\sin 30^\circ", r"\sin (\frac{30\pi}{180})"),
        (r"\cos(60^{\circ})", r"\cos(\frac{60\pi}{180})"),
        (r"30^\circ", r"30^\circ"),
        (r"n \equiv 3 \pmod 8", r"n \equiv 3 \pmod{8}"),
        (r"n \equiv 3 \mod 8", r"n \equiv 3 \pmod{8}"),
        ("3 (mod 8)", r"3 \pmod{8}"),
        (r"11 \bmod 8", r"11 \bmod 8"),
        ("model", "model"),
        (r"0.\bar{3}", r"0.\overline{3}"),
        (r"0.1\dot6", r"0.1\overline{6}"),
        (r"\overline{AB}", r"\overline{AB}"),
        ("0.333...", r"0.\overline{3}"),
        (r"0.1666\dots", r"0.1\overline{6}"),
        ("0.121212...", r"0.\overline{12}"),
        ("3.14159...", r"3.14159\ldots"),
        ("1,2,...,n", r"1,2,\ldots ,n"),
        ("42...", "42"),
        (r"\{x \in \mathbb{R} : x>2\}", " x>2"),
        (r"\{1,2\}", r"\{1,2\}"),
        (r"2\pi k, k \in \mathbb{Z}", r"2\pi k"),
        (r"k\pi \text{ where } k\in\mathbb{Z}", r"k\pi"),
        (r"x \in \mathbb{Z}", r"x \in \mathbb{Z}"),
        (r"\textcolor{red}{5}", "{5}"),
        (r"\Large 5", " 5"),
        (r"\begin{aligned}5\end{aligned}", "5"),
    ],
)
def test_one_rule(typed: str, latex: str) -> None:
    assert to_latex(typed) == latex


@pytest.mark.parametrize(
    "piece",
    [
        "(mod ",
        "sqrt(",
        r"{a\choose ",
        "...",
        ".1",
        r"\sin 3",
        "^(",
        "]1,",
        r"\{x:",
        "pi",
        "a**",
        "0.3",
        r".3\ldots",
    ],
)
def test_any_text_of_the_longest_answer_is_quick(piece: str) -> None:
    started = time.process_time()
    to_latex(piece * (2_000 // len(piece)))
    assert time.process_time() - started < 1.0
