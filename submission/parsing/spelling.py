"""One canonical spelling for answers that differ only in how they are typed. See `submission.answers`."""

import re
import unicodedata

from submission.parsing.extraction import boxes, closing_brace
from submission.parsing.plain import to_latex

MAX_ANSWER_CHARS = 2_000
"""Longer texts are nobody's final answer: they are neither normalised nor compared."""

_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2012\u2013\u2014\ufe63\uff0d", "-"),
        **dict.fromkeys("\u2009\u202f\u00a0\u2007\u200a", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\x00", ""),
        **dict.fromkeys("\u00d7\u2715", r"\times "),
        **dict.fromkeys("·⋅∙", r"\cdot "),
        **dict.fromkeys("€£¥", "$"),
        **{"÷": "/", "±": r"\pm ", "≈": r"\approx ", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq "},
        **{"π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "°": r"^\circ ", "。": "."},
        **{"\u222a": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset "},
        **{"½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"},
        **{"⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "\u2044": "/", "\u2215": "/", "≡": r"\equiv "},
        **{"⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "\u2216": r"\setminus "},
        # Blackboard C, N, Q, R, Z, which NFKC would make plain letters.
        **{"\u2102": r"\mathbb{C}", "\u2115": r"\mathbb{N}", "\u211a": r"\mathbb{Q}"},
        **{"\u211d": r"\mathbb{R}", "\u2124": r"\mathbb{Z}"},
        **{"或": " or ", "和": " and ", "、": ", ", "∛": r"\sqrt[3]", "…": "..."},
        **{digit: f"^{{{value}}}" for value, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
        **{digit: f"_{{{value}}}" for value, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    }
)
_COMMANDS = re.compile(
    r"(?P<keep>\\\\)"
    r"|(?P<drop>\\(?:left|right)\.|\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])|\\displaystyle(?![a-zA-Z])"
    r"|\s?\\!\s*|\\[()\[\]]|\\?\$)"
    r"|(?P<space>\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\\thinspace(?![a-zA-Z]))"
    r"|(?P<frac>\\[dtc]frac(?![a-zA-Z]))"
    r"|(?P<binom>\\[dt]binom(?![a-zA-Z]))"
    r"|(?P<text>\\(?:text(?:bf|rm|it|sf|tt|normal)?|math(?:rm|bf|it|sf)|mbox|bold|boldsymbol)(?=\s*\{))"
    r"|(?P<percent>\\?%|\bpercent(?:age)?\b|\bpct\b)"
    r"|(?P<leq>\\leqslant(?![a-zA-Z])|\\le(?![a-zA-Z])|<=)"
    r"|(?P<geq>\\geqslant(?![a-zA-Z])|\\ge(?![a-zA-Z])|>=)"
    r"|(?P<neq>\\ne(?![a-zA-Z])|!=)"
    r"|(?P<less>\\lt(?![a-zA-Z]))"
    r"|(?P<greater>\\gt(?![a-zA-Z]))"
    r"|(?P<empty>\\varnothing(?![a-zA-Z]))"
)
_SPELLING = {
    "drop": "",
    "space": " ",
    "frac": r"\frac",
    "binom": r"\binom",
    "text": r"\text",
    "percent": "%",
    "leq": r"\leq ",
}
_SPELLING |= {"geq": r"\geq ", "neq": r"\neq ", "empty": r"\emptyset ", "less": "<", "greater": ">"}
_DEGREES = re.compile(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree(?:s|(?![a-zA-Z]))")
_COMMA = re.compile(r" ?\{ ?, ?\} ?")
_QUAD = re.compile(r"\s*+(?:\\q?quad(?![a-zA-Z])\s*+)++(?![=&,;]|\\text\s?\{\s?(?:and|or)\s?\}|(?:and|or)\s)")
_AND_OR_AT_END = re.compile(r"\\text\s?\{\s?(?:and|or)\s?\}$|\s(?:and|or)$")
_AND_OR = re.compile(r",?\s?\\text\s?\{\s?(?:and|or)\s?\}\s?|,?\s(?:and|or)\s")
_TEXT_UNIT = re.compile(
    r"(?<=[^\s+*/=^_(,<>-])\s?\\text\s?\{\s?"
    r"(?!\s?(?:[ap]\.?\s?m\b|i\s?\}|(?:thousand|[mbt]r?illion|dozen)\b))(?P<unit>[a-zA-Z][a-zA-Z ./-]*)\}"
    r"(?:\^\{?[0-9]\}?)?$"
)
_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mathbf|mbox)[a-z]*\s?\{([^{}]*)\}")
# KM is a product of two letters, and so is cm after another letter: "2x+3cm".
_UNITS = (
    "m/s|cm|mm|km|dm|kg|mg|ft|yd|oz|mph|kmph|sq|cu|in|[Rr]s|mi|m[lL]|cc|(?i:lbs?|hrs?|mins?|secs?|usd|deg|"
    "cents?|dollars?|inch(?:es)?|feet|foot|units?|degrees?|days?|hours?|years?|meters?|metres?|miles?|ways?)"
)
_POWER = r"(?:\^\{?[0-9]\}?)?"
_BARE_UNIT = re.compile(
    r"(?:(?<=[0-9}])|(?<=\\pi))(?:"
    r"(?:\s(?!(?i:million|billion|trillion|thousand|hundred|dozen|score))[a-zA-Z-]{4,}){1,4}"
    rf"|(?<!\\pi)\s[gm]{_POWER}|\s(?:CM|MM|KM|KG)"
    r"|\s?(?:(?:(?i:square|cubic)|[sS]q\.?|[cC]u\.?)\s)?"
    rf"(?:{_UNITS})(?:\s?/\s?[a-z]{{1,6}}|\sper\s[a-z]+)?{_POWER}"
    r")\.?$"
)
_UNIT_NAME = re.compile(
    rf"(?:(?i:square|cubic|sq\.?|cu\.?) )?(?:{_UNITS}|[a-zA-Z])(?: ?/ ?[a-z]+| per [a-z]+)? ?"
)
_VARIABLE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])[^=]*$")
_ORDINAL = re.compile(r"(?<=[0-9])\s?\^?\s?\{?\s?(?:\\text\s?\{\s?)?(?:st|nd|rd|th)\s?\}{0,2}$")
_THOUSANDS = re.compile(
    r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9,])"
    r"|(?<![0-9.,] )(?<![0-9.,])[1-9][0-9]{0,2}(?: [0-9]{3})+(?! ?[0-9])"
    r"|(?<![0-9.,'])[1-9][0-9]{0,2}(?:'[0-9]{3})+(?![0-9'])"
)
# "32, 349" with a space is two numbers; without one, and in "32, 049", the comma groups digits.
_LISTED = re.compile(r"(?<=[0-9]) ?, (?=[1-9][0-9]{2}(?![0-9]))")
_GROUPED = re.compile(r"(?<=[0-9]) ?, (?=0[0-9]{2}(?![0-9]))")
_DIGITS = re.compile(r"(?<![0-9.])(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?![0-9.]|\s?\\overline)")
_ATOM = r"([0-9a-zA-Z]|\\pi(?![a-zA-Z]))"
_SHORT_FRACTIONS = [
    (re.compile(rf"\\frac\s?{_ATOM}\s?{_ATOM}"), r"\\frac{\1}{\2}"),
    (re.compile(rf"\\frac\s?{_ATOM}\s?\{{"), r"\\frac{\1}{"),
    (re.compile(rf"\\frac\s?\{{([^{{}}]*)\}}\s?{_ATOM}"), r"\\frac{\1}{\2}"),
]
_REWRITES = [
    (re.compile(rf"\\sqrt\s?(\[[0-9]+\])?\s?{_ATOM}"), r"\\sqrt\1{\2}"),
    (re.compile(r"(?<![\w^/.}])([0-9]+)\s?/\s?([0-9]+)(?![\w^/.({!])"), r"\\frac{\1}{\2}"),
    (re.compile(r"([_^])\s?\{\s?(\w)\s?\}"), r"\1\2"),
    (re.compile(r"\+\s?-"), "-"),
    (re.compile(r"(?<!\\log)_\s?\{\s?([0-9]+)\s?\}"), r"_\1"),
    (re.compile(r"(?<![a-zA-Z0-9]) | (?![a-zA-Z0-9])|(?<=[0-9]) (?=[a-zA-Z])|(?<=[a-zA-Z]) (?=[0-9])"), ""),
]
_LONG_RUN = re.compile(r"[a-zA-Z]{3}")
_MEANINGS = {
    **dict.fromkeys(("no solution", "no solutions", "empty set", "the empty set"), r"\emptyset"),
    **dict.fromkeys(("all real numbers", "all reals", "the real numbers", "real numbers"), r"\mathbb{R}"),
}
_WORDS = re.compile(r"[a-zA-Z][a-zA-Z'-]+(?:[ ,.-]+[a-zA-Z'-]+)*")


def normalize(text: str) -> str:
    r"""The canonical spelling of one answer, for comparison as text.

    `\dfrac12` and `1/2` become `\frac{1}{2}`; sizes, spaces, dollars, styles, units, percent and degree signs
    go; `{,}` and thousands separators go, except inside brackets, where a comma makes a tuple; numbers lose
    leading zeros and a zero fraction; full-width, superscript and other digits become ASCII; what was typed
    as on a keyboard becomes LaTeX. A text longer than `MAX_ANSWER_CHARS` only has its spaces collapsed.
    """
    if len(text) > MAX_ANSWER_CHARS:
        return " ".join(text.split())
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_SYMBOLS))
        text = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)
    text = " ".join(text.replace("\x00", "").split())
    boxed = next(boxes(text), None)
    text = _strip(to_latex(boxed[0] if boxed else text))
    if "quad" in text:
        text = _QUAD.sub(_equation_gap, text)
    text = _COMMANDS.sub(lambda found: _SPELLING.get(str(found.lastgroup), found.group()), text)
    text = _DEGREES.sub("", _COMMA.sub(",", text))
    text = _AND_OR.sub(",", " ".join(text.split()))
    text = _ORDINAL.sub("", _strip(text))
    text = _TEXT.sub(r"\1", _TEXT_UNIT.sub(_text_unit, text)).strip()
    text = _BARE_UNIT.sub(_unit, text).removesuffix("%")
    if not re.search(r"[(\[]|\\\{", text):
        text = _GROUPED.sub(",", _LISTED.sub(";", text))
        text = _THOUSANDS.sub(lambda found: re.sub("[, ']", "", found.group()), text)
    exact, _, _ = text.partition(r"\approx")
    if any(char.isdigit() for char in exact):  # x = 1/3 \approx 0.33; but x \approx 5 has nothing better
        text = exact
    if r"\frac" in text:  # before \frac01 loses its zero
        for pattern, replacement in _SHORT_FRACTIONS:
            text = pattern.sub(replacement, text)
    text = _DIGITS.sub(_canonical_number, text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _strip(text).removeprefix("+")
    choice = re.fullmatch(r"\(([A-Za-h])\)", text)
    if choice:
        return choice.group(1)
    # R-r is a formula, and AB another segment than ab.
    words = _WORDS.fullmatch(text) and (_LONG_RUN.search(text) or text in ("No", "NO"))
    return _MEANINGS.get(text.lower(), text.lower()) if words else text


def unwrap_text(text: str) -> str:
    r"""Take words out of their LaTeX commands: "\text{The answer is } 42" becomes "The answer is  42"."""
    return _TEXT_COMMAND.sub(r"\1", text)


def _strip(text: str) -> str:
    """Drop what surrounds an answer: emphasis, quotes, closing punctuation, a pair of braces around all."""
    for _ in range(8):
        shorter = text.strip(" *_`\"'").rstrip(".,;:\\").lstrip("=:")
        if shorter.startswith("{") and closing_brace(shorter, 0, len(shorter)) == len(shorter) - 1:
            shorter = shorter[1:-1]
        if shorter == text:
            break
        text = shorter
    return text


def _equation_gap(found: re.Match[str]) -> str:
    """A wide space between two equations is as good as a comma."""
    before, after = found.string[: found.start()], found.string[found.end() :]
    between = "=" in before and "=" in after
    divided = before[-1:] in (",", ";", "=") or _AND_OR_AT_END.search(before)
    return ", " if between and not divided else " "


def _text_unit(found: re.Match[str]) -> str:
    r"""After a number any words are its unit; after letters, as in "n \text{ is odd}", only a unit's name."""
    beside_letters = _VARIABLE.search(found.string, 0, found.start()) is not None
    return found.group() if beside_letters and not _UNIT_NAME.fullmatch(found.group("unit")) else ""


def _unit(found: re.Match[str]) -> str:
    beside_letters = not found.group().startswith(" ") and _VARIABLE.search(found.string, 0, found.start())
    return found.group() if beside_letters else ""


def _canonical_number(found: re.Match[str]) -> str:
    whole, point, fraction = found.group().partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    return f"{whole}.{fraction}" if point and fraction else whole
