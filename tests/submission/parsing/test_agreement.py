"""The second look at math-verify's verdicts, on expressions of sympy's own."""

import pytest
from sympy import (
    And,
    Eq,
    Expr,
    FiniteSet,
    Float,
    Interval,
    Matrix,
    Rational,
    S,
    Symbol,
    Tuple,
    Union,
    exp,
    factorial,
    oo,
    pi,
    sqrt,
)

from submission.parsing.agreement import contradicted, proven, region

X, Y = Symbol("x", real=True), Symbol("y", real=True)


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        (exp(-50), exp(-49)),
        (pi / 10**20, 2 * pi / 10**20),
        (1 / factorial(2004), 1 / factorial(2006)),
        ((2**2005 + Rational(1, 3)) / 2**2006, Rational(1, 2)),
        (X**2 + Rational(1, 10**20), X**2),
        (Tuple(exp(-50), 1, 2), Tuple(exp(-49), 1, 2)),
        (Interval(exp(-50), 1), Interval(exp(-49), 1)),
        (Matrix([exp(-50)]), Matrix([exp(-49)])),
        (FiniteSet(exp(-50), 1), FiniteSet(exp(-49), 1)),
        (Eq(Y, X), Eq(Y, X + Rational(1, 10**20))),
        (Eq(abs(X), -1, evaluate=False), Eq(abs(X), -2, evaluate=False)),
        (exp(-50) < X, exp(-49) < X),
    ],
)
def test_numbers_show_a_difference(gold: Expr, given: Expr) -> None:
    assert contradicted(gold, given, decimal=False)
    assert contradicted(given, gold, decimal=False)


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        (sqrt(12), 2 * sqrt(3)),
        (X**2 - 1, (X - 1) * (X + 1)),
        (Symbol("ab"), Symbol("a") * Symbol("b")),
        (FiniteSet(1, sqrt(2)), FiniteSet(sqrt(2), 1)),
        (Eq(2 * X + 4 * Y, 3), Eq(Y, Rational(3, 4) - X / 2)),
        (Eq(X, 2), Eq(X, 2)),
        (X > 2, -X < -2),
        (S.Reals, S.Reals),
        (Interval(2, oo), Interval(2, oo)),
    ],
)
def test_the_same_is_not_contradicted(gold: Expr, given: Expr) -> None:
    assert not contradicted(gold, given, decimal=False)
    assert not contradicted(given, gold, decimal=False)


def test_a_rounded_value_will_do_where_one_is_a_decimal() -> None:
    assert not contradicted(sqrt(2), Float("1.41421356"), decimal=True)
    assert contradicted(sqrt(2) / 10**4, Float("0.000141"), decimal=True)


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        (sqrt(1 / X), 1 / sqrt(X)),
        (And(X >= 0, X < 1), Interval.Ropen(0, 1)),
        (FiniteSet(X < 1, X > 3), Union(Interval.open(-oo, 1), Interval.open(3, oo))),
        (FiniteSet(X > 1, X < 3), Interval.open(1, 3)),
        (And(1 < X, X < 2), And(2 > X, X > 1)),  # noqa: SIM300  both ways round is the point
        (Tuple(1, 2, 3), Matrix([1, 2, 3])),
        (Interval.open(1, 2), Matrix([[1, 2]])),
        (sqrt(3 + 2 * sqrt(2)), 1 + sqrt(2)),
        (Eq(2 * X - 4, 0), Eq(X, 2)),
    ],
)
def test_the_same_is_proven(gold: Expr, given: Expr) -> None:
    assert proven(gold, given)
    assert proven(given, gold)


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        (sqrt(X**2), X),
        (2 * X, 2 * Y),
        (Eq(2 * X - 4, 0), Eq(X, 3)),
        (Eq(X, Y), Eq(X, 2)),
        (sqrt(10**40 + 1), S(10**20)),
        (X < 2, Interval(-oo, 2)),
        (X < 2, Y < 2),
        (Tuple(1, 2), Matrix([2, 1])),
        (FiniteSet(1, 2), Matrix([1, 2])),
        (FiniteSet(X > 1, X > 3), Interval.open(3, oo)),
    ],
)
def test_the_different_is_not_proven(gold: Expr, given: Expr) -> None:
    assert not proven(gold, given)
    assert not proven(given, gold)


def test_regions() -> None:
    assert region(X >= 2) == Interval(2, oo)
    assert region(Eq(X, 2)) is None
    assert region(X + Y > 2) is None
    assert region(X) is None
