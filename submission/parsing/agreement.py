"""Whether two parsed answers agree, where math-verify's own verdict is too generous or too strict.

math-verify drops differences below 1e-15, holds any two equations without solutions equal, never takes a set
for the inequality that describes it, nor a column for a point. So its "equal" is checked again at numbers
(`contradicted`), and its "different" by a few rules (`proven`). Runs only in the child process of
`submission.parsing.symbolic`, whose parent ends it when it overruns.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sympy import Basic, Expr

_DIGITS = 40
"""Decimal digits that numbers are compared to."""
_SAMPLES = ("17/13", "-19/7", "31/11", "-5/17", "23/5", "-41/9")
"""Points for the first variable; further ones are spread by sevenths."""


def contradicted(gold: Any, given: Any, *, decimal: bool) -> bool:
    """Whether numbers show that two answers differ, which math-verify holds equal.

    Args:
        decimal: one of the two was written with a decimal point, so that a rounded value will do.
    """
    from sympy import Basic, Expr, Interval, MatrixBase
    from sympy.core.relational import Relational

    if isinstance(gold, MatrixBase) and isinstance(given, MatrixBase):
        return gold.shape == given.shape and _some_contradicted(gold.flat(), given.flat(), decimal)
    if not isinstance(gold, Basic) or not isinstance(given, Basic):
        return False
    if isinstance(gold, Relational) and isinstance(given, Relational):
        return _relations_contradicted(gold, given, decimal)
    gold, given = _right_side(gold), _right_side(given)
    if isinstance(gold, Expr) and isinstance(given, Expr):
        return _differ(gold, given, decimal)
    if isinstance(gold, Interval) and isinstance(given, Interval):
        return _some_contradicted((gold.start, gold.end), (given.start, given.end), decimal)
    return _collections_contradicted(gold, given, decimal)


def _collections_contradicted(gold: Any, given: Any, decimal: bool) -> bool:
    from sympy import Eq, Tuple

    left, right = members(gold), members(given)
    if not left or len(left) != len(right):
        return False
    kinds = (gold, given)
    named = any(all(isinstance(one, Eq) for one in values) for values in (left, right))
    if all(isinstance(each, Tuple) for each in kinds) or (named and not all(map(_is_list, kinds))):
        return _some_contradicted(left, right, decimal)
    # Some element has no partner that it may equal.
    return any(all(contradicted(one, other, decimal=decimal) for other in right) for one in left)


def proven(gold: Any, given: Any) -> bool:
    """Whether two answers that math-verify holds different are one region, point or expression."""
    from sympy import Basic, Eq, Expr, MatrixBase

    if isinstance(gold, MatrixBase) != isinstance(given, MatrixBase):
        matrix, other = (gold, given) if isinstance(gold, MatrixBase) else (given, gold)
        coordinates = members(other) if 1 in matrix.shape and not _is_list(other) else ()
        return bool(coordinates) and list(coordinates) == list(matrix.flat())
    if not isinstance(gold, Basic) or not isinstance(given, Basic):
        return False
    if isinstance(gold, Expr) and isinstance(given, Expr):
        return _same_everywhere(gold, given)
    if isinstance(gold, Eq) and isinstance(given, Eq):
        sides = (gold.lhs, gold.rhs, given.lhs, given.rhs)
        same_letters = gold.free_symbols == given.free_symbols
        return (
            same_letters
            and all(isinstance(side, Expr) for side in sides)
            and _proportional(gold, given, False)
        )
    return _same_region(gold, given)


def members(answer: Any) -> Sequence[Any]:
    """The coordinates or elements, as typed, of a tuple, a list, or an open interval that may be a point."""
    from sympy import FiniteSet, Interval, Tuple

    if isinstance(answer, Interval):
        return (answer.start, answer.end) if answer.left_open and answer.right_open else ()
    if isinstance(answer, FiniteSet):
        return tuple(getattr(answer, "_unsorted_args", answer.args))
    return tuple(answer) if isinstance(answer, Tuple) else ()


def _is_list(answer: Any) -> bool:
    from sympy import FiniteSet

    return isinstance(answer, FiniteSet)


def _right_side(answer: "Basic") -> "Basic":
    from sympy import Eq

    return answer.rhs if isinstance(answer, Eq) else answer


def _some_contradicted(left: Sequence[Any], right: Sequence[Any], decimal: bool) -> bool:
    pairs = zip(left, right, strict=True)
    return any(contradicted(one, other, decimal=decimal) for one, other in pairs)


def _value(expression: "Expr") -> Any:
    """A finite complex number to `_DIGITS` digits, or None."""
    try:
        value = expression.evalf(_DIGITS)
    except (ArithmeticError, AttributeError, TypeError, ValueError, RecursionError):
        return None
    return value if value.is_number and value.is_finite else None


def _differ(gold: "Expr", given: "Expr", decimal: bool) -> bool:
    # Other letters: a word read as a product, or a letter that cancels.
    if gold == given or gold.free_symbols != given.free_symbols:
        return False
    symbols = sorted(gold.free_symbols, key=str)
    if not symbols:
        return _numbers_differ(gold, given, decimal)
    verdicts = [_numbers_differ(*values, decimal) for values in _sampled(gold, given, symbols)]
    return bool(verdicts) and all(verdicts)


def _sampled(gold: "Expr", given: "Expr", symbols: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Both values at the points where both are real."""
    found = []
    for point in _points(symbols)[:4]:
        left, right = _value(gold.subs(point)), _value(given.subs(point))
        if left is not None and right is not None and left.is_real and right.is_real:
            found.append((left, right))
    return found


def _points(symbols: Sequence[Any]) -> list[dict[Any, Any]]:
    from sympy import Rational

    return [
        {symbol: Rational(text) + Rational(index * (turn + 3), 7) for index, symbol in enumerate(symbols)}
        for turn, text in enumerate(_SAMPLES)
    ]


def _numbers_differ(gold: "Expr", given: "Expr", decimal: bool) -> bool:
    if not decimal:
        left, right = gold.doit(), given.doit()
        if left.is_Rational and right.is_Rational:
            return bool(left != right)
    one, other = _value(gold), _value(given)
    if one is None or other is None:
        return False
    error, size = abs(one - other), max(abs(one), abs(other))
    if decimal:  # as `submission.answers` does with two rationals
        return bool(error > size / 1000)
    return bool(error * 10 ** (_DIGITS - 10) > size)


def _relations_contradicted(gold: Any, given: Any, decimal: bool) -> bool:
    from sympy import Eq, Expr

    if not all(isinstance(side, Expr) for side in (gold.lhs, gold.rhs, given.lhs, given.rhs)):
        return False
    equations = isinstance(gold, Eq) and isinstance(given, Eq)
    if equations and gold.lhs == given.lhs:
        return contradicted(gold.rhs, given.rhs, decimal=decimal)
    if _proportional(gold, given, decimal) or gold.free_symbols != given.free_symbols:
        return False
    if equations:
        return _solutions_contradicted(gold, given, decimal)
    left, right = region(gold), region(given)
    return left is not None and right is not None and contradicted(left, right, decimal=decimal)


def _solutions_contradicted(gold: Any, given: Any, decimal: bool) -> bool:
    """Whether a solution of one has no partner, or there are none: that is no evidence for two equations."""
    from sympy import solve

    left, right = (
        [list(solution.values()) for solution in solve(equation, gold.free_symbols, dict=True)]
        for equation in (gold, given)
    )
    return not left or any(
        all(len(one) != len(other) or _some_contradicted(one, other, decimal) for other in right)
        for one in left
    )


def _proportional(gold: Any, given: Any, decimal: bool) -> bool:
    """Whether two relations differ by a factor only, as 2x-4=0 and x=2 do."""
    symbols = sorted(gold.free_symbols | given.free_symbols, key=str)
    values = _sampled(gold.lhs - gold.rhs, given.lhs - given.rhs, symbols) if symbols else []
    ratios = [left / right for left, right in values if right != 0]
    return len(ratios) > 1 and not any(_numbers_differ(*pair, decimal) for pair in pairwise(ratios))


def region(answer: Any) -> Any:
    """The real set that an inequality in one variable, or a list of them, describes; else None."""
    from sympy import And, FiniteSet, Or, Set
    from sympy.core.relational import Equality, Relational

    if (
        isinstance(answer, FiniteSet)
        and answer.args
        and all(isinstance(one, Relational) for one in answer.args)
    ):
        return _joined_region(answer)
    if isinstance(answer, Equality):  # how x in [2,3] is read
        return answer.rhs if isinstance(answer.rhs, Set) and answer.lhs.is_Symbol else None
    if isinstance(answer, Relational | And | Or) and len(answer.free_symbols) == 1:
        try:
            return answer.doit().as_set()
        except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError):
            return None
    return answer if isinstance(answer, Set) else None


def _joined_region(answer: Any) -> Any:
    """A union for "x<1, x>3", since both cannot hold; an intersection for "x>1, x<3": one always does."""
    from sympy import Intersection, S, Union

    parts = [region(one) for one in answer.args]
    if None in parts or len(answer.free_symbols) != 1:
        return None
    union, intersection = Union(*parts), Intersection(*parts)
    if union == S.Reals:
        return intersection
    return union if intersection == S.EmptySet else None


def _same_region(gold: "Basic", given: "Basic") -> bool:
    left, right = region(gold), region(given)
    # Two sets were compared by math-verify.
    if left is None or right is None or (left is gold and right is given):
        return False
    names = [one.free_symbols for one in (gold, given) if one.free_symbols]
    if len(names) == 2 and names[0] != names[1]:
        return False
    try:
        return bool(left == right or left.symmetric_difference(right).is_empty is True)
    except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError):
        return False


def _same_everywhere(gold: "Expr", given: "Expr") -> bool:
    """The same exact value at every sampled point, and real at the same ones: sqrt(1/n) and 1/sqrt(n)."""
    from sympy import Float

    if gold.free_symbols != given.free_symbols or gold.has(Float) or given.has(Float):
        return False
    symbols = sorted(gold.free_symbols, key=str)
    if not symbols:
        return not _numbers_differ(gold, given, decimal=False) and (gold - given).equals(0) is True
    agreed = 0
    for point in _points(symbols):
        left, right = _value(gold.subs(point)), _value(given.subs(point))
        if left is None or right is None or left.is_real is not right.is_real:
            return False
        if left.is_real:
            if _numbers_differ(left, right, decimal=False):
                return False
            agreed += 1
    return agreed > 1
