"""Lists, sets and tuples of exact numbers, compared without computer algebra."""

import re
from fractions import Fraction
from typing import NamedTuple

from submission.parsing.rationals import exact_value

_BRACKETS = re.compile(r"(\\\{|\(|\[)(.*)(\\\}|\)|\])")
_KINDS = {("", ""): "list", ("\\{", "\\}"): "set", ("(", ")"): "tuple", ("[", "]"): "bracket"}
_MOST_ITEMS = 64


class Numbers(NamedTuple):
    """A "list" (bare), "set", "tuple" or "bracket" of two numbers or more, in the order they were typed."""

    kind: str
    values: tuple[Fraction, ...]


def read_numbers(normalized: str) -> Numbers | None:
    """The numbers of an answer in canonical spelling, or None where it is one number or has anything else."""
    if "," not in normalized and ";" not in normalized:
        return None
    whole = _BRACKETS.fullmatch(normalized)
    opening, inside, closing = whole.groups() if whole else ("", normalized, "")
    kind = _KINDS.get((opening, closing))
    pieces = re.split("[,;]", inside)
    if kind is None or not 1 < len(pieces) <= _MOST_ITEMS:
        return None
    values = [exact_value(piece) for piece in pieces]
    known = tuple(value for value in values if value is not None)
    return Numbers(kind, known) if len(known) == len(values) else None


def same_numbers(given: Numbers, gold: Numbers) -> bool | None:
    """Whether both are the same numbers; None where that is not all: an interval, repeated numbers.

    The order counts in a tuple; a list is one where the other side is.
    """
    kinds = {given.kind, gold.kind}
    if kinds in ({"tuple"}, {"bracket"}, {"tuple", "list"}) and given.values == gold.values:
        return True
    if kinds <= {"list", "set"}:
        if sorted(given.values) == sorted(gold.values):
            return True
        return False if set(given.values) != set(gold.values) else None
    if kinds in ({"tuple"}, {"bracket"}):
        return False
    return None
