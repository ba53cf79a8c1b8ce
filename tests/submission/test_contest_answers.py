"""Whole completions to the contest's integers: how models box, state, dress and break off an answer."""

import pytest

from submission.answers import check, contest_answer, extract, parse_gold

BOXED = [
    ("42", 42),
    (r"\boxed{42}", 42),
    (r"\text{42}", 42),
    ("42.", 42),
    ("\n42\n", 42),
    ("00042", 42),
    ("42.0", 42),
    ("42.5", None),
    ("42...", 42),
    ("42\\\\", 42),
    ("2^{10}", 1024),
    ("2**10", 1024),
    ("1{,}024", 1024),
    ("1,024", 1024),
    (r"1\,024", 1024),
    ("1 024", 1024),
    ("1'024", 1024),
    ("4,200", 4200),
    ("4, 200", None),
    ("4,2", None),
    ("(4,2)", None),
    (r"4 \text{ or } 2", None),
    (r"\pm 4", None),
    ("k = 336", 336),
    ("m+n=336", 336),
    ("f(2024)=42", 42),
    ("|S|=42", 42),
    ("a_{10}=42", 42),
    (r"\angle ABC = 42^\circ", 42),
    (r"N \equiv 336 \pmod{1000}", 336),
    (r"N \equiv 336 \mod 1000", 336),
    (r"336 \pmod{1000}", 336),
    (r"336 \text{ (mod } 1000)", 336),
    (r"336\ (\text{mod}\ 1000)", 336),
    (r"2336 \bmod 1000", 336),
    (r"(2000+336) \mod 1000", 336),
    (r"2336 \bmod 0", None),
    (r"7 \bmod 2.5", None),
    ("99999", 99_999),
    ("10^5-1", 99_999),
    ("100000", None),
    ("-1", None),
    ("\u221242", None),
    ("0", 0),
    ("1e3", 1000),
    (r"\frac{84}{2}", 42),
    (r"6\times7=42", 42),
    ("5!", 120),
    (r"\binom{10}{3}", 120),
    (r"\dbinom{10}{3}", 120),
    (r"{10 \choose 3}", 120),
    (r"\sqrt{16}", 4),
    ("sqrt(16)", 4),
    (r"2\sqrt{16}", 8),
    (r"(3)\frac{4}{2}", 6),
    (r"3\frac{4}{2}", None),
    ("x", None),
    (r"\text{No solution}", None),
    (r"42 \text{ cm}", 42),
    (r"42\%", 42),
    (r"\$42", 42),
    (r"\approx 42", 42),
    (r"\color{red}{42}", 42),
    (r"\Large 42", 42),
    (r"\begin{aligned}42\end{aligned}", 42),
    (r"\{42\}", 42),
    ("[42]", 42),
    (r"\text{The answer is }42", 42),
    ("\uff14\uff12", 42),
]

WHOLE = [
    (r"\boxed{1}, no: \boxed{2}", 2),
    (r"\boxed{42", None),
    (r"\boxed{}", None),
    ("\\boxed{}\n\\boxed{7}", 7),
    (r"\fbox{8}", 8),
    (r"\boxed 5", 5),
    ("```\nprint(1)\n```\n```latex\n\\boxed{9}\n```", 9),
    ("`\\boxed{9}`", 9),
    ("**Answer:** 42.", 42),
    ("**Answer**: 42", 42),
    ("**Final Answer**\n\n42", 42),
    ("### Final Answer\n**336**", 336),
    ("FINAL ANSWER\n\n$$336$$", 336),
    ("Answer: **\\(42\\)**", 42),
    ("So the answer is:\n\\[\n42\n\\]", 42),
    ("The answer is 336 (mod 1000).", 336),
    ("The answer is k = 336.", 336),
    ("The answer is 1,024.", 1024),
    ("I think the answer is 41. Wait, no. The answer is 42.", 42),
    ("<think>6 times 7</think><answer>42</answer>", 42),
    ("<answer>\n42\n</answer> Do you need more? I have 3 other ways.", 42),
    ("\u7b54\u6848\u662f 42\u3002", 42),
    ("\u7b54\u6848\uff1a42\u3002", 42),
    ("\u6240\u4ee5\u7b54\u6848\u662f42\u4e2a\u3002", 42),
    ("\u7b54\u6848\uff1a\u5c0f\u660e\u6709 42 \u4e2a\u82f9\u679c\u3002", 42),
    ("\u7b54\u6848\u662f 42\uff0c\u56e0\u4e3a 6*7=42\u3002", 42),
    ("The answers are $10$ and $200$.", None),
    ("the answer\nmay be 5", None),
]


@pytest.mark.parametrize(("boxed", "expected"), BOXED)
def test_a_boxed_answer(boxed: str, expected: int | None) -> None:
    assert contest_answer(rf"Hence $\boxed{{{boxed}}}$.", 0, 99_999) == expected


@pytest.mark.parametrize(("text", "expected"), WHOLE)
def test_a_whole_completion(text: str, expected: int | None) -> None:
    assert contest_answer(text, 0, 99_999) == expected


def test_boxes_and_formulas_that_are_joined_stay_apart() -> None:
    """10 and 200 joined by a bare comma would be 10,200."""
    assert extract("The answers are $10$ and $200$.") == ("10, 200", "stated")
    assert check(r"\boxed{100} or \boxed{200}", parse_gold("200, 100"))
    assert not check(r"\boxed{100} or \boxed{200}", parse_gold("100200"))


def test_a_list_in_full_width_is_not_cut_at_its_comma() -> None:
    assert check("\u7b54\u6848\u662f 1\uff0c2\u3002", parse_gold("1,2"))
    assert not check("\u7b54\u6848\u662f 1\uff0c2\u3002", parse_gold("1"))


def test_a_gold_may_state_its_answer_in_a_text_command() -> None:
    assert parse_gold(r"\text{The answer is }13").integer == 13
