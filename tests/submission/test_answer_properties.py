"""Respelled answers stay equal both ways round and other values different, for every kind of answer."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from submission.answers import check, equal, parse_gold, to_int
from submission.parsing.symbolic import SymbolicChecker
from tests.examples import examples

Draw = Callable[[st.SearchStrategy[Any]], Any]
Spelled = tuple[Any, list[str]]
"""A value to compare by, and spellings of it."""


@pytest.fixture(scope="module")
def checker() -> Iterator[SymbolicChecker]:
    with SymbolicChecker(timeout=20) as checker:
        yield checker


SMALL = st.fractions(min_value=-40, max_value=40, max_denominator=25)


def fraction(value: Fraction) -> list[str]:
    above, below = abs(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    spellings = [
        rf"{sign}\frac{{{above}}}{{{below}}}",
        rf"\dfrac{{{value.numerator}}}{{{below}}}",
        f"{value.numerator}/{below}",
        rf"\frac{{{3 * value.numerator}}}{{{3 * below}}}",
    ]
    if below == 1:
        spellings += [str(value), f"{value}.0"]
    if above > below > 1:
        spellings += [rf"{sign}{above // below}\frac{{{above % below}}}{{{below}}}"]
        spellings += [f"{sign}{above // below} {above % below}/{below}"]
    return spellings


def rational(draw: Draw) -> Spelled:
    value = draw(SMALL)
    spellings = fraction(value)
    exact = [f"x = {spelling}" for spelling in spellings] + [rf"${spelling}$" for spelling in spellings]
    return value, [*spellings, *exact, *(rf"\left({spelling}\right)" for spelling in spellings[:4])]


def percent(draw: Draw) -> Spelled:
    value = draw(st.integers(1, 400))
    return value, [
        rf"{value}\%",
        f"{value}%",
        f"{value} percent",
        rf"{value}.0\%",
        rf"\frac{{{value}}}{{100}}",
    ]


def quantity(draw: Draw) -> Spelled:
    value = draw(st.integers(1000, 10**7))
    grouped = f"{value:,}"
    plain = [str(value), grouped, grouped.replace(",", "{,}"), grouped.replace(",", r"\,"), f"{value}.00"]
    units = [
        "{} cm",
        r"{} \text{{ m}}^2",
        r"\${}",
        "{} dollars",
        r"{}^\circ",
        "{}\u00b0",
        r"\text{{{}}}",
        "k = {}",
    ]
    return value, [*plain, grouped.replace(",", " "), *(unit.format(value) for unit in units)]


def scientific(draw: Draw) -> Spelled:
    digits, power = draw(st.integers(11, 99).filter(lambda n: n % 10)), draw(st.integers(-6, 9))
    mantissa = f"{digits / 10:.1f}"
    spellings = [
        rf"{mantissa}\times 10^{{{power}}}",
        rf"{mantissa} \cdot 10^{{{power}}}",
        f"{mantissa}e{power}",
    ]
    return Fraction(digits) * Fraction(10) ** (power - 1), spellings


def surd(draw: Draw) -> Spelled:
    whole, factor = draw(st.integers(-9, 9).filter(bool)), draw(st.integers(2, 5))
    root, sign = draw(st.sampled_from([2, 3, 5, 6, 7, 10])), draw(st.sampled_from("+-"))
    other = {"+": "", "-": "-"}[sign]
    tail = f"{whole:+d}"
    return (whole, sign, factor, root), [
        rf"{whole}{sign}{factor}\sqrt{{{root}}}",
        rf"{other}{factor}\sqrt{{{root}}}{tail}",
        rf"{whole} {sign} \sqrt{{{factor**2 * root}}}",
        f"{whole} {sign} {factor}*sqrt({root})",
        rf"\frac{{{2 * whole}{sign}{2 * factor}\sqrt{{{root}}}}}{{2}}",
        f"{whole}{sign}{factor}\u221a{root}" if root < 10 else rf"{whole}{sign}{factor}\sqrt{{{root}}}",
    ]


def point(draw: Draw) -> Spelled:
    values = draw(st.lists(SMALL, min_size=2, max_size=4))
    inside = [", ".join(draw(st.sampled_from(fraction(value)[:4])) for value in values) for _ in range(3)]
    return tuple(values), [f"({inside[0]})", rf"\left({inside[1]}\right)", f"({inside[2].replace(' ', '')})"]


def solutions(draw: Draw) -> Spelled:
    values = draw(st.lists(SMALL, min_size=2, max_size=4, unique=True))

    def inside() -> str:
        mixed = draw(st.permutations(values))
        return ", ".join(draw(st.sampled_from(fraction(value)[:4])) for value in mixed)

    forms = [r"\{{{}\}}", r"\left\{{{}\right\}}", "{}", r"$\{{{}\}}$"]
    return frozenset(values), [form.format(inside()) for form in forms]


def interval(draw: Draw) -> Spelled:
    low, high = sorted(draw(st.lists(SMALL, min_size=2, max_size=2, unique=True)))
    left, right = draw(st.sampled_from(["[]", "[)", "(]"]))
    first, last = draw(st.sampled_from(fraction(low)[:3])), draw(st.sampled_from(fraction(high)[:3]))
    below, above = (r"\le" if left == "[" else "<"), (r"\leq" if right == "]" else "<")
    return (low, high, left, right), [
        f"{left}{first},{last}{right}",
        rf"\left{left}{first}, {last}\right{right}",
        rf"x \in {left}{first}, {last}{right}",
        f"{first} {below} x {above} {last}",
    ]


def matrix(draw: Draw) -> Spelled:
    rows, columns = draw(st.sampled_from([(2, 2), (2, 3), (3, 1)]))
    values = draw(st.lists(st.lists(SMALL, min_size=columns, max_size=columns), min_size=rows, max_size=rows))

    def body(cell: str, row: str) -> str:
        return row.join(cell.join(draw(st.sampled_from(fraction(v)[:3])) for v in line) for line in values)

    tight, wide = body("&", r"\\"), body(" & ", r" \\ ")
    return values, [rf"\begin{{pmatrix}}{tight}\end{{pmatrix}}", rf"\begin{{bmatrix}} {wide} \end{{bmatrix}}"]


def polynomial(draw: Draw) -> Spelled:
    constant, linear, square = (draw(st.integers(-6, 6).filter(lambda n: abs(n) > 1)) for _ in range(3))
    terms = [f"{square:+d}x^2", f"{linear:+d}x", f"{constant:+d}"]
    spelled = ["".join(order).removeprefix("+") for order in (terms, terms[::-1])]
    return (constant, linear, square), [
        *spelled,
        spelled[0].replace("x^2", "x^{2}"),
        spelled[0].replace("x", "*x").replace("^", "**"),
        f"f(x) = {spelled[1]}",
        f"x({square}x{linear:+d}){constant:+d}",
    ]


EXACT = [rational, percent, quantity, scientific, point, solutions]
SYMBOLIC = [surd, interval, matrix, polynomial]


def hold(kind: Callable[[Draw], Spelled], draw: Draw, checker: SymbolicChecker | None) -> None:
    """One value in two spellings is equal both ways round; two values are different both ways round."""
    value, spellings = kind(draw)
    one, same = draw(st.sampled_from(spellings)), draw(st.sampled_from(spellings))
    assert check(rf"\boxed{{{same}}}", parse_gold(one), checker), (one, same)
    assert check(rf"\boxed{{{one}}}", parse_gold(same), checker), (same, one)
    other, spellings = kind(draw)
    if other != value:
        different = draw(st.sampled_from(spellings))
        assert not equal(different, parse_gold(one), checker), (one, different)
        assert not equal(one, parse_gold(different), checker), (different, one)


@pytest.mark.parametrize("kind", EXACT)
@given(data=st.data())
@settings(max_examples=examples(60), deadline=None)
def test_exact_kinds_need_no_algebra(kind: Callable[[Draw], Spelled], data: st.DataObject) -> None:
    hold(kind, data.draw, None)


@pytest.mark.parametrize("kind", SYMBOLIC)
@given(data=st.data())
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_symbolic_kinds(
    kind: Callable[[Draw], Spelled], data: st.DataObject, checker: SymbolicChecker
) -> None:
    hold(kind, data.draw, checker)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SYMBOLIC, point, solutions])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_of_the_symbolic_kinds(
    kind: Callable[[Draw], Spelled], data: st.DataObject, checker: SymbolicChecker
) -> None:
    hold(kind, data.draw, checker)


@given(st.integers(0, 99_999), st.integers(2, 10**5))
def test_a_contest_integer_is_read_as_a_residue_or_a_remainder(number: int, modulus: int) -> None:
    assert to_int(rf"N \equiv {number} \pmod{{{modulus}}}") == number
    assert to_int(f"{number} (mod {modulus})") == number
    assert to_int(rf"{number} \bmod {modulus}") == number % modulus
