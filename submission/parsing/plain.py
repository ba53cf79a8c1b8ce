r"""Answers typed as on a keyboard, or dressed in styles, in the LaTeX of `submission.parsing.spelling`.

sqrt(2)*pi, x**2, 1.333..., 5 \choose 2, \langle 1,2\rangle, ]0,1], \sin 30^\circ, 7 (mod 10). Each rule looks
for its own mark first, so that an answer without any costs little; all take linear time.
"""

import re
from collections.abc import Callable

_FUNCTIONS = (
    "arcsin|arccos|arctan|asin|acos|atan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|gcd|lcm|max|min"
)
_FUNCTION = re.compile(rf"(?<![\\a-zA-Z])({_FUNCTIONS})(?=\s?\()")
_RENAMED = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_CONSTANT = re.compile(r"(?<![\\a-zA-Z_])(?:(pi)|infinity|inf)(?![a-zA-Z])")
_ROOT_OR_BRACKET = re.compile(r"(?<![a-zA-Z])\\?sqrt\s?\(|[()]")
_BARE_ROOT = re.compile(r"(?<![\\a-zA-Z])sqrt\s?([0-9]+)")
_DOUBLE_STAR = re.compile(r"(?<=[0-9a-zA-Z)}])\*\*(?=[0-9a-zA-Z({-])")
_POWER = re.compile(r"\^\s?\(([^(){}]*)\)")
_COLOR = re.compile(r"\\(?:text)?color\s?\{[a-zA-Z]+\}")
_STYLE = re.compile(
    r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![a-zA-Z])"
    r"|\\underline(?=\s?\{)|\\hspace\*?\s?\{[^{}]*\}"
)
_CHOOSE = re.compile(r"\{([^{}\\]*)\\choose(?![a-zA-Z])([^{}\\]*)\}")
_LAYOUT = re.compile(r"\\(?:begin|end)\s?\{(?:aligned|align\*?|gathered|gather\*?|split|equation\*?)\}")
_ANGLES = re.compile(r"\\[lr]angle(?![a-zA-Z])")
_OUTWARD = re.compile(r"([\[\]])([^\[\](),]+,[^\[\](),]+)([\[\]])")
_TRIG_DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)\s?(?:\^\s?\{?[0-9]\}?)?)\s?([({]?)\s?([0-9]+(?:\.[0-9]+)?)\s?"
    r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?"
)
_WORD_MOD = re.compile(r"\\(?:text|mathrm)\s?\{\s?(\(?)\s?mod\s?\}")
_MODULUS = re.compile(r"\\pmod\s?(?!\s?\{)([0-9a-z]+)|\(\s?\\?b?mod(?![a-z])\s?([^()]*)\)")
_BARE_MODULUS = re.compile(r"\\?b?mod(?![a-z])\s?\{?([0-9a-z]+)\}?")
_OVERLINED = re.compile(r"(\.[0-9]*)\\(?:bar|dot|overline)\s?\{?([0-9]+)\}?")
_ELLIPSIS = re.compile(r"\.{3,}|\\[lc]?dots(?![a-zA-Z])")
_REPEATED = re.compile(r"(\.[0-9]{0,12}?)([0-9]{1,6}?)\2{2,}\\ldots\s?")
_BUILDER = re.compile(r"^\\\{\s?([a-z])\s?(?:\\in\s?\\mathbb\s?\{R\}\s?)?(?:\\mid|\\vert|:|\|)(.*)\\\}$")
_NOTHING = re.compile(r"\\\{\s?\\\}")
_UNBRACED = re.compile(r"\\(math(?:bb|bf|rm|it))\s([a-zA-Z])(?![a-zA-Z])")
_BOLD = re.compile(r"\\(?:mathbf|mathit|boldsymbol|bold)\s?\{([a-zA-Z])\}")
_POSITIVE = re.compile(r"\\mathbb\s?\{R\}\s?(?:[\^_]\s?(?:\+|\{\+\})|_\s?\{\s?>\s?0\s?\})")
_LG = re.compile(r"\\lg(?![a-zA-Z])")
_COLON = re.compile(r"\{:\}")
_INTEGERS = re.compile(r"(?:,\s?|,?\s?\\text\s?\{,?\s?(?:where|for)\s?\}\s?)[a-z]\s?\\in\s?\\mathbb\s?\{Z\}$")


def to_latex(text: str) -> str:
    """One answer with keyboard spellings and styles replaced by LaTeX."""
    for mark, rewrite in _RULES:
        if mark in text:
            text = rewrite(text)
    return text


def _constant(found: re.Match[str]) -> str:
    return r"\pi " if found.group(1) else r"\infty "


def _function(found: re.Match[str]) -> str:
    return "\\" + _RENAMED.get(found.group(1), found.group(1))


def _roots(text: str) -> str:
    r"""sqrt(...) as \sqrt{...}, whatever parentheses are within."""
    pieces, position = [], 0
    open_roots: list[bool] = []
    for found in _ROOT_OR_BRACKET.finditer(text):
        pieces.append(text[position : found.start()])
        position = found.end()
        if found.group() == ")":
            pieces.append("}" if open_roots and open_roots.pop() else ")")
        else:
            root = found.group() != "("
            open_roots.append(root)
            pieces.append(r"\sqrt{" if root else "(")
    if open_roots:  # cut off
        return text
    return _BARE_ROOT.sub(r"\\sqrt{\1}", "".join(pieces) + text[position:])


def _degrees(found: re.Match[str]) -> str:
    name, bracket, number = found.groups()
    angle = rf"\frac{{{number}\pi}}{{180}}"
    return name + (bracket + angle if bracket else f"({angle})")


def _modulus(found: re.Match[str]) -> str:
    inside = next(group for group in found.groups() if group is not None)
    return rf"\pmod{{{inside.strip()}}}"


def _residue(text: str) -> str:
    r"""All congruences as \pmod{n}; "10 \bmod 4", a remainder, stays."""
    text = _MODULUS.sub(_modulus, _WORD_MOD.sub(r"\1\\mod ", text))
    return _BARE_MODULUS.sub(_modulus, text) if r"\equiv" in text and r"\pmod" not in text else text


def _outward(text: str) -> str:
    """]0,1] is (0,1] to a French reader."""
    whole = _OUTWARD.fullmatch(text)
    if whole is None or (whole.group(1), whole.group(3)) == ("[", "]"):
        return text
    left, inside, right = whole.groups()
    return ("(" if left == "]" else "[") + inside + (")" if right == "[" else "]")


def _endless(text: str) -> str:
    """Dots that say "and so on" as \\ldots, and 0.333\\ldots with its period; dots that end a sentence go."""
    text = _REPEATED.sub(r"\1\\overline{\2}", _ELLIPSIS.sub(r"\\ldots ", text)).strip()
    alone = text.removesuffix(r"\ldots")
    return text if re.search(r"[.,+]", alone) else alone


def _letters(text: str) -> str:
    r"""Bold letters as letters, \mathbb R as \mathbb{R}, and the positive numbers as an interval."""
    text = _BOLD.sub(r"\1", _UNBRACED.sub(r"\\\1{\2}", text))
    return _POSITIVE.sub(r"(0,\\infty)", text)


_RULES: list[tuple[str, Callable[[str], str]]] = [
    ("**", lambda text: _DOUBLE_STAR.sub("^", text)),
    ("^(", lambda text: _POWER.sub(r"^{\1}", text)),
    ("pi", lambda text: _CONSTANT.sub(_constant, text)),
    ("inf", lambda text: _CONSTANT.sub(_constant, text)),
    ("(", lambda text: _FUNCTION.sub(_function, text)),
    ("sqrt", _roots),
    ("color", lambda text: _COLOR.sub("", text)),
    ("\\", lambda text: _STYLE.sub("", text)),
    ("\\math", _letters),
    ("\\bold", _letters),
    ("\\lg", lambda text: _LG.sub(r"\\log_{10}", text)),
    (":}", lambda text: _COLON.sub(":", text)),
    ("\\choose", lambda text: _CHOOSE.sub(r"\\binom{\1}{\2}", text)),
    ("angle", lambda text: _ANGLES.sub(lambda found: "(" if found.group()[1] == "l" else ")", text)),
    ("mod", _residue),
    ("\\begin", lambda text: _LAYOUT.sub("", text)),
    ("\\{", lambda text: _BUILDER.sub(r"\2", _NOTHING.sub(r"\\emptyset", text))),
    ("\\mathbb", lambda text: _INTEGERS.sub("", text)),
    ("^", lambda text: _TRIG_DEGREES.sub(_degrees, text)),
    ("]", _outward),
    ("[", _outward),
    ("overline", lambda text: _OVERLINED.sub(r"\1\\overline{\2}", text)),
    ("\\bar", lambda text: _OVERLINED.sub(r"\1\\overline{\2}", text)),
    ("\\dot", lambda text: _OVERLINED.sub(r"\1\\overline{\2}", text)),
    ("dots", _endless),
    ("...", _endless),
]
