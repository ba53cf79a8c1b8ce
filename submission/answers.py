r"""Final answers: find one in a completion, spell it canonically, compare it with gold.

The project's only answer parser: votes, scores and rewards all go through it. Three levels, cheapest first:
exact integers; then exact rationals, lists of them and canonical text; everything else (radicals, intervals,
matrices, equations) in a `submission.parsing.symbolic.SymbolicChecker`, whose processes can be killed.

Left out on purpose: this runs on the contest's event loop, so it imports no computer algebra, takes linear
time on any text, and builds no number of more than `MAX_DIGITS` digits.
"""

import math
import re
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from submission.parsing.extraction import Extracted, closing_brace, extract, joined_boxes
from submission.parsing.lists import Numbers, read_numbers, same_numbers
from submission.parsing.rationals import MAX_DIGITS, exact_value
from submission.parsing.spelling import MAX_ANSWER_CHARS, normalize, unwrap_text

if TYPE_CHECKING:
    from submission.parsing.symbolic import SymbolicChecker

__all__ = [
    "MAX_ANSWER_CHARS",
    "MAX_DIGITS",
    "Extracted",
    "Gold",
    "check",
    "contest_answer",
    "equal",
    "extract",
    "normalize",
    "parse_gold",
    "to_int",
]

MAX_GOLD_CHARS = 1_000
"""What the symbolic checker takes at most; no reference answer comes near it."""

_PLAIN_INTEGER = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}")
_MODULUS = re.compile(r"\\pmod(?:\{[^{}]*\}|[0-9a-z]+)$|\(\\?(?:mod|bmod)[^()]*\)$")
_RELATION = re.compile(r"(?<![<>!])=|\\approx|\\equiv")
_NAME = re.compile(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?'?(?:\([a-zA-Z0-9,]+\))?|\|[A-Z]+\||\\angle ?[A-Z]+")
_SEPARATOR = re.compile(
    r"\\\\|[,;]|\\?&|\\(?:vee|wedge|lor|land)(?![a-zA-Z])"
    r"|(?<=[0-9)}!])(?:and|or|for|if|but|then|where|when|while|with|since)"
)
_OPERATOR = re.compile(r"\\(?:cdot|times|div|frac|sqrt)(?![a-zA-Z])")
_PROSE = re.compile(r"[a-zA-Z'-]{2,}(?: [a-zA-Z'-]+)*")
# x=1x=5 and x_1=3x_2=5, where only a space stood between two equations for one letter.
_REPEATED = re.compile(r"(?<![a-zA-Z])(\\?[a-zA-Z]+)(?:_\{?\w+\}?)?=[^=]*[0-9)}]\1(?:_\{?\w+\}?)?=")
_LONG_WORD = re.compile(r"(?<!\\begin\{)(?<!\\end\{)(?<![\\a-zA-Z])[a-zA-Z]{4,}")
_CHOICE_LABEL = re.compile(r"(?:\(([A-H])\):?|([A-H])[.):])(?=[^)])")
_BETWEEN_WORDS = re.compile(r"[\s,.;:!?'\"()-]")
_PROSE_ONLY = re.compile(r"(?:[a-zA-Z]|[\s,.;:!?'\"()-])+")
_WORD = re.compile(r"(?<![a-zA-Z])(?=[a-zA-Z]*[aeiouyAEIOUY])[a-zA-Z]{4}")
_SHORT_WORDS = frozenset({"yes", "no"})
_SAME_WORDS = {"yes": "true", "no": "false"}
_LIST = re.compile("[,;]")
_SINGLETON = re.compile(r"(?:\\\{|\[)([^,;]+)(?:\\\}|\])")
_SENTENCE = re.compile(r"(?<![\\a-zA-Z])(?!(?:and|or)\b)[^\W\d_]{2,}")
_COMMA_NUMBER = re.compile(r"-?[0-9]+,[0-9]+")
_BASE = re.compile(r"([0-9A-F]+)_([0-9]+)")
_DANGLING = re.compile(
    r"(?:[-+*/^_=<>&]|\\(?:cdot|times|frac|sqrt|leq|geq|cup|cap|in|pm))$|\\frac\{\}|\\frac\{[^{}]*\}\{\}"
)
_MISSING = frozenset({"nan", "null", "None", "NaN", "N/A", "n/a", "<NA>", "NULL"})


class Gold(NamedTuple):
    """A reference answer that was checked at load time; made by `parse_gold` only."""

    text: str
    normalized: str
    integer: int | None
    value: Fraction | None


def to_int(text: str) -> int | None:
    r"""The exact integer that an answer stands for ("1,234", "012", "12.0", "1.2e3", "x = 42"), or None.

    Arithmetic of numbers is worked out exactly ("2^{10}-1" is 1023, "7 \bmod 4" is 3). Where a rounded value
    follows ("x = 1/3 \approx 0.33"), the exact part counts; a rounded one alone ("x \approx 5") is taken at
    its word. Anything symbolic, in another base, of more than `MAX_DIGITS` digits, or with several values
    ("n=3 or n=5") is None.
    """
    plain = text.strip()
    if _PLAIN_INTEGER.fullmatch(plain):
        return int(plain)
    value = _value(normalize(text))
    if value is None:
        inner = extract(unwrap_text(text)) if len(text) <= MAX_ANSWER_CHARS else None
        if inner is None or inner.source != "stated":
            return None
        value = _value(normalize(inner.text))
    return int(value) if value is not None and value.denominator == 1 else None


def contest_answer(text: str, low: int, high: int, *, last_number: bool = False) -> int | None:
    """The integer answer of a completion if it lies in `low`..`high` (both included), else None."""
    found = extract(text, last_number=last_number)
    value = to_int(found.text) if found else None
    return value if value is not None and low <= value <= high else None


def parse_gold(gold: str | int | float) -> Gold:
    r"""Check and spell a reference answer, once, at load time.

    Text may be a bare answer ("\frac{1}{2}", "$x=5$", "\text{even}") or hold one in a box or after "####".

    Raises:
        ValueError: it is no answer: empty, a missing value ("nan", "None"), only punctuation, unbalanced
            braces, a formula that breaks off ("3+", "x="), NaN or infinity, or over `MAX_GOLD_CHARS` long.
    """
    text = _gold_text(gold)
    if _PLAIN_INTEGER.fullmatch(text):
        number = int(text)
        return Gold(text, str(number), number, Fraction(number))
    normalized = normalize(text)
    problem = _gold_problem(text, normalized)
    if problem:
        raise ValueError(f"gold answer {str(gold)[:80]!r} {problem}; mend or drop this row")
    name, _ = _split_relation(normalized)
    # A gold equation such as 2x+z=1 is more than its right side; a named value (x=5) is that value.
    named = not name or _NAME.fullmatch(name) or exact_value(name) is not None
    value = _value(normalized) if named else None
    integer = int(value) if value is not None and value.denominator == 1 else None
    return Gold(text, normalized, integer, value)


def _gold_text(gold: object) -> str:
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        raise ValueError(f"gold answer {str(gold)[:80]!r} is a {type(gold).__name__}, not a text or a number")
    if isinstance(gold, float):
        if not math.isfinite(gold):
            raise ValueError(f"gold answer {gold!r} is not a finite number; mend or drop this row")
        return str(int(gold)) if gold.is_integer() else repr(gold)
    if isinstance(gold, int):
        if abs(gold).bit_length() > MAX_DIGITS * 3:
            raise ValueError(f"gold answer has {abs(gold).bit_length()} bits, over {MAX_DIGITS} digits")
        return str(gold)
    if "boxed" in gold:
        gold = joined_boxes(gold) or gold
    elif "####" in gold or "nswer is" in gold:
        found = extract(unwrap_text(gold))
        gold = found.text if found else gold
    return gold.strip()


def _gold_problem(text: str, normalized: str) -> str:
    """What makes a gold text unusable, or an empty string."""
    braces = "{" + normalized + "}"
    problems = {
        "is empty": not text,
        f"has {len(text)} characters, over {MAX_GOLD_CHARS}": len(text) > MAX_GOLD_CHARS,
        "is a missing value": text in _MISSING,
        "has unbalanced braces": closing_brace(braces, 0, len(braces)) != len(braces) - 1,
        "holds no number, letter or word": not any(char.isalnum() for char in normalized),
        "is a formula that breaks off": _DANGLING.search(normalized) is not None,
    }
    return next((problem for problem, found in problems.items() if found), "")


def equal(prediction: str, gold: Gold, checker: "SymbolicChecker | None" = None) -> bool:
    """Whether one answer (or the answer within a text that boxes or states one) equals gold.

    Integers and rationals are decided exactly; a decimal against a fraction, and all else that differs as
    text, is left to `checker`, without which it counts as different.
    """
    plain = prediction.strip()
    if gold.integer is not None and _PLAIN_INTEGER.fullmatch(plain):
        return int(plain) == gold.integer
    normalized = _short_normalized(plain)
    if normalized != gold.normalized and (not normalized or "boxed" in plain or "nswer" in plain):
        found = extract(plain if "boxed" in plain else unwrap_text(plain))
        plain = found.text if found else plain
        normalized = _short_normalized(plain)
    if not normalized or normalized == gold.normalized:
        return bool(normalized)
    decided = _decide(normalized, plain, gold)
    if decided is None:
        decided = checker is not None and checker.equal(normalized, gold.normalized)
    return decided


def _short_normalized(text: str) -> str:
    return normalize(text) if len(text) <= MAX_ANSWER_CHARS else ""


def check(
    completion: str, gold: Gold, checker: "SymbolicChecker | None" = None, *, last_number: bool = False
) -> bool:
    """Whether a completion's final answer equals gold. A short one-line completion may be the bare answer."""
    found = extract(completion, last_number=last_number)
    if found is None or found.source == "number":
        bare = completion.strip()
        if len(bare) <= 200 and "\n" not in bare:
            if equal(bare, gold, checker):
                return True
            if not _SENTENCE.search(bare):  # the last number of a formula is not its value
                return False
    if found is None:
        return False
    if equal(found.text, gold, checker):
        return True
    if found.source == "boxed" and _LIST.search(gold.normalized):
        joined = joined_boxes(completion)
        return joined != found.text and equal(joined, gold, checker)
    return False


def _last_relation(normalized: str) -> re.Match[str] | None:
    found = list(_RELATION.finditer(normalized))
    return found[-1] if found else None


def _split_relation(normalized: str) -> tuple[str, str]:
    """("x", "5") for "x=5" and "5=x"; the last relation counts, and the name is "" where there is none."""
    last = _last_relation(normalized)
    if last is None:
        return "", normalized
    left, right = normalized[: last.start()], normalized[last.end() :]
    if _NAME.fullmatch(right) and exact_value(left) is not None:
        return right, left
    return left, right


def _lists_equations(normalized: str) -> bool:
    """Whether it is several equations ("x=1,x=5", "x,y=5"): those have no one value, least of all the last.

    A chain is one equation ("x=2+3=5"), and so is one after some prose ("Thus,x=5").
    """
    last = _last_relation(normalized)
    if last is None:
        return False
    if _REPEATED.search(normalized):
        return True
    before = normalized[: last.start()]
    if not _SEPARATOR.search(before):
        return False
    pieces = _SEPARATOR.split(_outside_brackets(before))
    for piece, following in pairwise(pieces):
        side = _OPERATOR.sub("", _RELATION.split(following, maxsplit=1)[0])
        # Without a letter it is the rest of a number, or goes on with the same equation: ",000=", "\\\\=".
        if any(char.isalpha() for char in side) and not _PROSE.fullmatch(piece):
            return True
    return False


def _outside_brackets(text: str) -> str:
    """Without what is in brackets of any kind: "f(1,2)+c" becomes "f()+c"."""
    kept, depth = [], 0
    for char in text:
        depth -= char in ")]}" and depth > 0
        if depth == 0:
            kept.append(char)
        depth += char in "([{"
    return "".join(kept)


def _value(normalized: str) -> Fraction | None:
    if _lists_equations(normalized):
        return None
    _, right = _split_relation(_MODULUS.sub("", normalized))
    label = _CHOICE_LABEL.match(right)
    if not label:
        alone = _SINGLETON.fullmatch(right)
        return exact_value(alone.group(1) if alone else right)
    return exact_value(right[label.end() :])


def _decide(normalized: str, raw: str, gold: Gold) -> bool | None:
    """Equal or not, where labels, words, number bases or exact values tell; None where only algebra can."""
    if gold.normalized in _labelled(normalized) or normalized in _labelled(gold.normalized):
        return True
    if _is_words(gold):
        return _fold(normalized) == _fold(gold.normalized)
    if len(normalized) == len(gold.normalized) == 1:
        # A choice in either case; but R and r are two radii.
        return normalized.upper() == gold.normalized.upper() and gold.normalized.upper() in "ABCDEFGH"
    if gold.value is not None and _lists_equations(normalized):
        return False
    name, _ = _split_relation(normalized)
    gold_name, _ = _split_relation(gold.normalized)
    if name and gold_name and name != gold_name:
        return None
    verdict = _same_based(normalized, gold)
    verdict = _same_list(normalized, raw, gold) if verdict is None else verdict
    return _same_value(normalized, raw, gold) if verdict is None else verdict


def _same_based(normalized: str, gold: Gold) -> bool | None:
    """52_8 is also written 52 where the problem names the base; two different bases never agree."""
    based, gold_based = _BASE.fullmatch(normalized), _BASE.fullmatch(gold.normalized)
    if not based and not gold_based:
        return None
    digits, base = based.groups() if based else (normalized, None)
    gold_digits, gold_base = gold_based.groups() if gold_based else (gold.normalized, None)
    return digits == gold_digits and (base is None or gold_base is None or base == gold_base)


def _same_list(normalized: str, raw: str, gold: Gold) -> bool | None:
    """Equal or not, where gold is a list, set or tuple of exact numbers; else None."""
    expected = read_numbers(gold.normalized)
    if expected is None:
        return None
    given = read_numbers(normalized)
    if given is None and expected.kind == "list" and "," in raw and _value(normalized) is not None:
        # 100,200 was read as one number; beside a list, its commas part.
        values = [exact_value(normalize(piece)) for piece in raw.split(",", len(expected.values))]
        given = Numbers("list", tuple(value for value in values if value is not None))
        return len(given.values) == len(values) and same_numbers(given, expected) is True
    if given is None:
        return None
    verdict = same_numbers(given, expected)
    return None if verdict is False and "." in normalized + gold.normalized else verdict


def _labelled(normalized: str) -> tuple[str, ...]:
    """The letter and the rest of a labelled choice, "(C) 15"; nothing for any other answer."""
    label = _CHOICE_LABEL.match(normalized)
    if label is None or (len(normalized) == label.end() + 1 and normalized[-1].isalpha()):  # A:B is a ratio
        return ()
    return label.group(1) or label.group(2), normalized[label.end() :]


def _same_value(normalized: str, raw: str, gold: Gold) -> bool | None:
    value, expected = _value(normalized), gold.value
    if (value is None) != (expected is None):
        value = _decimal_comma(normalized, raw) if value is None else value
        expected = _decimal_comma(gold.normalized, gold.text) if expected is None else expected
    if value is None or expected is None:
        # Prose is no number, and algebra is slow to find that out.
        return False if expected is not None and _LONG_WORD.search(normalized) else None
    if _is_percent(raw) != _is_percent(gold.text):
        part = Fraction(1, 100)
        alternatives = (value, value * part) if _is_percent(raw) else (value, value)
        targets = (expected, expected * part) if _is_percent(gold.text) else (expected, expected)
        return any(_close(a, b, normalized, gold) for a, b in zip(alternatives, targets, strict=True))
    return _close(value, expected, normalized, gold)


def _close(value: Fraction, expected: Fraction, normalized: str, gold: Gold) -> bool:
    """Exactly equal, or rounded at the sixth decimal or later where either is written as a decimal."""
    if value == expected:
        return True
    if expected.denominator == 1 or "." not in normalized + gold.normalized:
        return False
    error = abs(value - expected)
    return error <= Fraction(1, 10**6) and error <= abs(expected) / 1000


def _decimal_comma(normalized: str, raw: str) -> Fraction | None:
    """2{,}74 as 2.74: TeX's way to type a comma within a number. A bare 2,74 is a list, as to math-verify."""
    if "{,}" not in raw or not _COMMA_NUMBER.fullmatch(normalized):
        return None
    return exact_value(normalized.replace(",", "."))


def _is_percent(text: str) -> bool:
    return "%" in text or "percent" in text.lower() or "pct" in text


def _is_words(gold: Gold) -> bool:
    """Words are compared as words: algebra takes their letters for factors, and "east" for "seat"."""
    if not _PROSE_ONLY.fullmatch(gold.normalized):
        return False
    letters = _fold(gold.normalized)
    if "\\text" in gold.text:
        return len(letters) > 1
    # A product of letters seldom makes four in a row with a vowel; "xyz-wxy" is a difference.
    return letters in _SHORT_WORDS or _WORD.search(gold.normalized.replace(" ", "")) is not None


def _fold(text: str) -> str:
    if "\\" in text:
        return text
    letters = _BETWEEN_WORDS.sub("", text.lower())
    return _SAME_WORDS.get(letters, letters)
