"""Lists, sets and tuples of exact numbers."""

from fractions import Fraction

import pytest

from submission.parsing.lists import Numbers, read_numbers, same_numbers


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("1,2", "list", [1, 2]),
        ("100;200", "list", [100, 200]),
        (r"\{3,\frac{1}{2}\}", "set", [3, Fraction(1, 2)]),
        ("(1,2,3)", "tuple", [1, 2, 3]),
        ("[1,2]", "bracket", [1, 2]),
    ],
)
def test_read(text: str, kind: str, values: list[Fraction]) -> None:
    assert read_numbers(text) == Numbers(kind, tuple(map(Fraction, values)))


@pytest.mark.parametrize(
    "text", ["", "12", ",", "1,", "x,2", "(1,2]", "(1,2),(3,4)", r"\sqrt{2},1", "1," * 100]
)
def test_what_is_not_read(text: str) -> None:
    assert read_numbers(text) is None


@pytest.mark.parametrize(
    ("given", "gold", "same"),
    [
        ("1,2", "2,1", True),
        ("1,2", r"\{2,1\}", True),
        ("1,2", "1,3", False),
        ("1,2", "1,2,3", False),
        ("1,1,2", "1,2", None),
        ("(1,2)", "(1,2)", True),
        ("(1,2)", "(2,1)", False),
        ("1,2", "(1,2)", True),
        ("2,1", "(1,2)", None),
        ("[1,2]", "(1,2)", None),
        (r"\{1,2\}", "(1,2)", None),
    ],
)
def test_same(given: str, gold: str, same: bool | None) -> None:
    one, other = read_numbers(given), read_numbers(gold)
    assert one is not None and other is not None
    assert same_numbers(one, other) is same
    assert same_numbers(other, one) is same
