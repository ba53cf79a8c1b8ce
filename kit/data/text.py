r"""Problem texts made comparable: what two spellings of one problem have in common.

Layout is left out (spaces, `$`, braces, `\left`, `\,`, `\dfrac` against `\frac`, full stops), and so are the
usual instructions around a problem ("put your final answer within \boxed{}"). All in linear time on any text.
"""

import re
import unicodedata

_INSTRUCTION = re.compile(
    r"(?:please )?(?:let's )?(?:reason|think) step by step,? (?:and )?"
    r"(?:put your final answer within|output the final answer within) \\boxed\{\}\.?"
    r"|(?:return your final response|(?:please )?put your final answer) (?:with)?in \\boxed\{\}\.?",
    re.IGNORECASE,
)
_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|qquad|quad|text|textbf|mathrm|mathbf|mbox|operatorname)"
    r"(?![a-zA-Z])|\\[,;:!> ]|[~$]"
)
_SYNONYMS = (
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(le|ge|ne)q(?![a-zA-Z])"), r"\\\1"),
    (re.compile("[−–—]"), "-"),  # noqa: RUF001 (the dashes that sets write for a minus)
)
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = rf"[0-9]+(?:\.[0-9]+)?|[{_CJK}]|[^\W\d_{_CJK}]+"
_TOKEN = re.compile(rf"{_WORD}|[-+*/=<>^!%|]|\S")
_WORDS = re.compile(_WORD)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_IGNORED = frozenset(r"""\{}[](),.;:?"'`&_""")
_LATIN_PER_CJK = 3
"""One ideograph tells about as much of its language as three letters do."""


def _plain(text: str) -> str:
    text = _LAYOUT.sub(" ", _INSTRUCTION.sub(" ", text))
    for pattern, replacement in _SYNONYMS:
        text = pattern.sub(replacement, text)
    return unicodedata.normalize("NFKC", text).casefold()


def tokens(text: str) -> tuple[str, ...]:
    """Words, numbers and operators in order; two texts with equal tokens are the same problem.

    Operators count: x + 1 = 0 is not x - 1 = 0. A text without any token is its own only token.
    """
    found = tuple(token for token in _TOKEN.findall(_plain(text)) if token not in _IGNORED)
    return found or (text.strip(),)


def words(text: str) -> list[str]:
    """Words and numbers in order, for n-grams."""
    return _WORDS.findall(_plain(text))


def numbers(text: str) -> list[str]:
    """The numbers in a text, sorted, repeated ones as often as they stand there."""
    return sorted(_NUMBER.findall(_plain(text)))


def prose(text: str) -> str:
    """The natural language in a text: without formulas, diagrams, code, and LaTeX commands."""
    for start, end in (
        ("[asy]", "[/asy]"),
        ("```", "```"),
        ("$$", "$$"),
        ("$", "$"),
        ("\\(", "\\)"),
        ("\\[", "\\]"),
    ):
        text = _without(text, start, end)
    text = re.sub(r"\\[a-zA-Z]+|<[^<>\n]{0,40}>", " ", text)
    return " ".join(re.sub(r"[\W\d_]+", " ", text).split())


def letters(text: str) -> int:
    """How much there is to tell the language by: letters, an ideograph counted as three."""
    ideographs = len(re.findall(f"[{_CJK}]", text))
    return sum(map(str.isalpha, text)) + (_LATIN_PER_CJK - 1) * ideographs


def _without(text: str, start: str, end: str) -> str:
    """Cut out every `start`...`end`; a block that never ends stays."""
    kept, place = [], 0
    while (opened := text.find(start, place)) >= 0:
        closed = text.find(end, opened + len(start))
        if closed < 0:
            break
        kept.append(text[place:opened])
        place = closed + len(end)
    return " ".join([*kept, text[place:]])
