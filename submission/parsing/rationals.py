"""Exact rational values of short arithmetic in LaTeX, without a computer algebra system.

What it reads: decimals, repeating decimals, fractions, mixed numbers, + - * /, powers, factorials, binomials,
perfect square roots and remainders. What it refuses: variables, inexact roots, and every number of over a
thousand digits, before it is built.
"""

import math
import re
from fractions import Fraction

MAX_DIGITS = 1_000
"""Longer integers are not read: conversion is quadratic, and no contest asks for them."""

_TOKEN = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:\\overline\{[0-9]+\})?|\\[a-z]+|[-+*/^!(){}%]")
_PLAIN_INTEGER = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}")
_SCIENTIFIC = re.compile(r"([+-]?[0-9]+(?:\.[0-9]*)?)[eE]([+-]?[0-9]{1,4})")
_SCALE = re.compile(r"(.*[0-9])\s?(thousand|million|billion|trillion)", re.IGNORECASE)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_JUXTAPOSED = frozenset({"(", "\\frac", "\\sqrt", "\\binom"})
_MAX_EXPRESSION = 200
_MAX_BITS = 3_300  # MAX_DIGITS decimal digits


class _NotExactError(Exception):
    """The text is no exact rational, or too large a one. Never leaves this module."""


def exact_value(text: str) -> Fraction | None:
    """The exact value of an answer in canonical spelling, or None where it has none or one too large."""
    if _PLAIN_INTEGER.fullmatch(text):
        return Fraction(int(text))
    scale = _SCALE.fullmatch(text) if len(text) <= _MAX_EXPRESSION else None
    factor = 1
    if scale:
        text, factor = scale.group(1), _SCALES[scale.group(2).lower()]
    scientific = _SCIENTIFIC.fullmatch(text)
    try:
        if scientific and abs(int(scientific.group(2))) <= MAX_DIGITS:
            mantissa, exponent = scientific.groups()
            return _bounded(_number(mantissa.lstrip("+")) * Fraction(10) ** int(exponent)) * factor
        if len(text) > _MAX_EXPRESSION:
            return None
        return _Reader(text).read() * factor
    except _NotExactError:
        return None


class _Reader:
    """Recursive descent over one short arithmetic expression; every step keeps numbers below `_MAX_BITS`."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = _TOKEN.findall(text)
        if sum(map(len, self.tokens)) != len(text.replace(" ", "")):
            raise _NotExactError
        self.tokens.append("")
        self.at = 0

    def read(self) -> Fraction:
        value = self.sum()
        if self.take("\\bmod", "\\mod"):
            value = _remainder(value, self.sum())
        if self.tokens[self.at]:
            raise _NotExactError
        return value

    def take(self, *wanted: str) -> str:
        symbol = self.tokens[self.at]
        if symbol not in wanted:
            return ""
        self.at += 1
        return symbol

    def group(self, opening: str = "{", closing: str = "}") -> Fraction:
        if not self.take(opening):
            raise _NotExactError
        value = self.sum()
        if not self.take(closing):
            raise _NotExactError
        return value

    def sum(self) -> Fraction:
        value = self.product()
        while sign := self.take("+", "-"):
            right = self.product()
            value = _bounded(value + right if sign == "+" else value - right)
        return value

    def product(self) -> Fraction:
        value = self.signed()
        while True:
            if self.take("*", "\\cdot", "\\times"):
                value = _bounded(value * self.signed())
            elif self.take("/", "\\div"):
                value = _bounded(_ratio(value, self.signed()))
            elif self.tokens[self.at] in _JUXTAPOSED:
                value = _bounded(value * self.signed())
            else:
                return value

    def signed(self) -> Fraction:
        if self.take("-"):
            return -self.signed()
        if self.take("+"):
            return self.signed()
        base = self.atom()
        if self.take("^"):
            return _power(base, self.group() if self.tokens[self.at] == "{" else self.signed())
        return base

    def atom(self) -> Fraction:
        symbol = self.tokens[self.at]
        if symbol == "(":
            value = self.group("(", ")")
        elif symbol == "{":
            value = self.group()
        elif symbol[:1].isdigit():
            self.at += 1
            value = _number(symbol)
            if self.tokens[self.at] == "\\frac":
                value = _mixed(value, self.atom())
        elif self.take("\\frac"):
            value = _ratio(self.group(), self.group())
        elif self.take("\\sqrt"):
            value = _square_root(self.group())
        elif self.take("\\binom"):
            value = _binomial(self.group(), self.group())
        else:
            raise _NotExactError
        while self.take("!"):
            value = _factorial(value)
        return value


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise _NotExactError
    return value


def _number(token: str) -> Fraction:
    """A decimal, perhaps with a repeating part: 0.1\\overline{6} is 1/6."""
    if len(token) > MAX_DIGITS:
        raise _NotExactError
    digits, _, repeating = token.rstrip("}").partition("\\overline{")
    if not repeating:
        return Fraction(digits.rstrip("."))
    if "." not in digits:
        raise _NotExactError
    places = len(digits.partition(".")[2])
    return Fraction(digits + "0") + Fraction(int(repeating), (10 ** len(repeating) - 1) * 10**places)


def _mixed(whole: Fraction, part: Fraction) -> Fraction:
    """2\\frac{1}{2} is two and a half; anything but a whole number before a proper fraction is ambiguous."""
    if whole.denominator != 1 or not 0 <= part < 1:
        raise _NotExactError
    return whole + part


def _ratio(above: Fraction, below: Fraction) -> Fraction:
    if below == 0:
        raise _NotExactError
    return above / below


def _remainder(value: Fraction, modulus: Fraction) -> Fraction:
    if value.denominator != 1 or modulus.denominator != 1 or modulus < 1:
        raise _NotExactError
    return value % modulus


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or (base == 0 and exponent <= 0):
        raise _NotExactError
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and bits * abs(exponent) > _MAX_BITS + bits:
        raise _NotExactError
    if abs(base) == 1:
        exponent = exponent % 2
    return _bounded(Fraction(base ** int(exponent)))


def _square_root(value: Fraction) -> Fraction:
    if value < 0:
        raise _NotExactError
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root * root != value:
        raise _NotExactError
    return root


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or not 0 <= value <= 400:
        raise _NotExactError
    return _bounded(Fraction(math.factorial(int(value))))


def _binomial(above: Fraction, below: Fraction) -> Fraction:
    if above.denominator != 1 or below.denominator != 1 or not 0 <= below <= above <= 1000:
        raise _NotExactError
    return Fraction(math.comb(int(above), int(below)))
