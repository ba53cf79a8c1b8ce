"""Where a completion says its final answer; in linear time on any text. See `submission.answers`."""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple


class Extracted(NamedTuple):
    """A final answer as the model wrote it, and how it was found: "boxed", "stated" or "number"."""

    text: str
    source: str


_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"[^\s{}$]{1,200}")
_NUMBER = re.compile(r"[-+\u2212]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?=\.[0-9]))(?:\.[0-9]+)?")
_FREE_NUMBER = re.compile(
    rf"(?<![a-zA-Z0-9_./])(?:[-+]?[0-9]{{1,9}} (?=[0-9]+/[0-9]))?{_NUMBER.pattern}(?:/[0-9]+(?!\.?[0-9]))?"
)
_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|\$([^$\n]+)\$"
    r"|\\\(([^\n\\]*(?:\\[^)\n][^\n\\]*)*)\\\)|\\\[([^\\]*(?:\\[^\]][^\\]*)*)\\\]"
)
_NUMBER_THEN_WORDS = re.compile(
    rf"([$€£]?\s?{_NUMBER.pattern}\s?%?(?:\s(?:thousand|[mbt]r?illion)\b)?)(?=\s+[a-zA-Z(]{{2}}|,\s|\s?$)"
    r"[^0-9\\+*/^=<>,]*(?:$|,\s(?!and\b|or\b)[a-zA-Z])"
)
_ANCHOR_MARKS = {
    "nswer": 1,
    "NSWER": 1,
    "答案": 0,
    "####": 0,
    "A:": 0,
}  # and how far before it an anchor starts
_ANCHOR = re.compile(
    r"(?:(?i:answer)[^\n.:=$]{0,60}?(?:[:=]|\b(?:is|are)\b|(?=\$|\\[(\[]))|答案[是为\uff1a:]{0,2}|####|A:"
    r"|(?<!/)(?i:answer)>|(?i:(?<=final )answer)[*_]{0,3}[ \t]*\n)"
    r"(?:[\s*_:=]|\b(?:therefore|thus|simply|just|approximately|about|equal to|given by|is)\b){0,40}"
)
_MATH_OPEN = re.compile(r"\$\$?|\\\(|\\\[")
_MATH_CLOSE = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}
_JOINT = re.compile(r"\s?(?:,?\s?(?:and|or)\b|,)\s?(?=\$|\\\()")
_SENTENCE_END = re.compile(
    r"[.;!?](?=[\s\"')]|$)|[。\uff1b]|\uff0c(?=[\u4e00-\u9fff])|</|,?\s(?:because|since|as|for|which|where|so|when)\s|\n|\*\*"
)
_LIST_JOINT = re.compile(r"\b(?:and|or)\b|[,;]")
_BEFORE_HUNDREDS = re.compile(r"(?<=[0-9]),(?=[1-9][0-9]{2}(?:,|$))")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_HAN_VERB = re.compile(r".*(?:是|为|等于|得到?|共有?|有|需要?)")
_HAN_UNIT = re.compile(r"\s?[\u4e00-\u9fff]{1,6}$")
_PROSE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_MONEY = re.compile(r"\$[0-9][0-9,.]*(?:\s+[a-zA-Z]{2,}|\s*$)")
_ANCHORS_TRIED = 32
_STATED_CHARS = 500
_MOST_BOXES = 16
_TAIL_CHARS = 4_000


def extract(text: str, *, last_number: bool = False) -> Extracted | None:
    r"""The final answer of a completion, or None.

    In this order: the last closed `\boxed{}` or `\fbox{}` that is not empty (the inner one of nested boxes);
    the last answer stated in words ("the answer is", "Answer:", "#### 18", "A: 18"); with `last_number`, the
    last number, or the formula that it stands in. A box that never closes is a cut-off sample, no answer.
    """
    boxed = next(boxes(text), None)
    if boxed is not None:
        return Extracted(boxed[0], "boxed")
    stated = _stated(text)
    if stated is not None:
        return Extracted(stated, "stated")
    return _last_number(text) if last_number else None


def _last_number(text: str) -> Extracted | None:
    tail = text[-_TAIL_CHARS:]
    numbers = deque(_FREE_NUMBER.finditer(tail), maxlen=1)
    formulas = deque(_FORMULA.finditer(tail), maxlen=1)
    if formulas and (not numbers or numbers[0].start() < formulas[0].end()):
        return Extracted(next(filter(None, formulas[0].groups()), "").strip(), "number")
    if not numbers and len(tail) < len(text):
        numbers = deque(_FREE_NUMBER.finditer(text), maxlen=1)
    return Extracted(numbers[0].group(), "number") if numbers else None


def boxes(text: str) -> Iterator[tuple[str, int, int]]:
    """Contents, starts and ends of the boxes that close, last first.

    Each box is followed only to the start of the next one, so all of it takes one pass over the text. Nothing
    is lost by that: a box that reaches further holds the next one, which is the answer already.
    """
    following = len(text)
    for found in reversed(list(_BOX.finditer(text))):
        start, end = found.end(), None
        if text.startswith("{", start):
            end = closing_brace(text, start, following)
            content = text[start + 1 : end].strip() if end is not None else ""
        else:  # TeX's "\boxed 5"
            bare = _BARE_BOX.match(text, start, following)
            content = bare.group().rstrip(".,;:*)") if bare else ""
            end = start + len(content)
        following = found.start()
        if content:
            yield content, found.start(), end or start


def closing_brace(text: str, start: int, stop: int) -> int | None:
    """Index of the brace that closes the one at `start`, if before `stop`; escaped braces don't count."""
    depth = 0
    for token in _BRACES.finditer(text, start, stop):
        if token.group() == "{":
            depth += 1
        elif token.group() == "}":
            depth -= 1
            if depth == 0:
                return token.start()
    return None


def joined_boxes(text: str) -> str:
    r"""All boxes of the last statement, "\boxed{1} and \boxed{2}", as one list: "1,2"."""
    parts: list[str] = []
    following: int | None = None
    for content, start, end in boxes(text):
        between = text[end:following] if following is not None and following - end < 70 else None
        if parts and (between is None or (len(between) > 10 and not _LIST_JOINT.search(between))):
            break
        if len(parts) == _MOST_BOXES:
            break
        parts.append(content)
        following = start
    return _listed(dict.fromkeys(reversed(parts)))


def _listed(parts: Iterable[str]) -> str:
    """Joined by commas; one before three digits gets a space, lest it seem a thousands separator."""
    return _BEFORE_HUNDREDS.sub(", ", ",".join(parts))


def _stated(text: str) -> str | None:
    """The last answer stated in words; one that shows a number or a formula goes before bare words."""
    words = None
    for start in islice(_anchor_starts(text), _ANCHORS_TRIED):
        anchor = _ANCHOR.match(text, start)
        if anchor is None:
            continue
        candidate = _statement(text[anchor.end() : anchor.end() + _STATED_CHARS])
        if re.search(r"[0-9\\^=]", candidate):
            return candidate
        if words is None and candidate and len(candidate.split()) <= 4:
            words = candidate
    return words


def _anchor_starts(text: str) -> Iterator[int]:
    """Where an answer may be announced, last first. `str.rfind` is many times faster here than a pattern."""
    last = {mark: text.rfind(mark) for mark in _ANCHOR_MARKS}
    while True:
        mark = max(last, key=last.__getitem__)
        position = last[mark]
        if position < 0:
            return
        last[mark] = text.rfind(mark, 0, position)
        if mark != "A:" or position == 0 or text[position - 1] == "\n":
            yield max(0, position - _ANCHOR_MARKS[mark])


def _statement(tail: str) -> str:
    """The answer at the start of `tail`: the formulas that it opens with, or what its first sentence says."""
    formulas = _leading_formulas(tail)
    if formulas:
        return formulas
    end = _SENTENCE_END.search(tail)
    sentence = (tail[: end.start()] if end else tail).strip(" \t*_`\"'")
    if _HAN.search(sentence) and any(char.isdigit() for char in sentence):
        # "小明有 42 个苹果": what the verb says, without its measure word
        verb = _HAN_VERB.match(sentence)
        sentence = _HAN_UNIT.sub("", sentence[verb.end() :] if verb else sentence).strip(" \t*_$")
    number = _NUMBER_THEN_WORDS.match(sentence)
    if number:
        return number.group(1).strip()
    if len(_PROSE.findall(sentence)) < 3:
        return sentence
    # "Answer: The largest n is 34", "Answer: Jane left 3 hours ago"
    subject, _, rest = sentence.rpartition(" is ")
    if subject:
        number = _NUMBER_THEN_WORDS.match(rest)
        return _leading_formulas(rest) or (number.group(1).strip() if number else rest)
    numbers = _FREE_NUMBER.findall(sentence)
    return numbers[0] if len(numbers) == 1 else sentence


def _leading_formulas(tail: str) -> str:
    """The formulas at the start of `tail`, joined where "and", "or" or a comma joins them; "" for none."""
    pieces: list[str] = []
    position = 0
    while opening := _MATH_OPEN.match(tail, position):
        end = tail.find(_MATH_CLOSE[opening.group()], opening.end())
        if end < 0 or _MONEY.match(tail, position):
            break
        pieces.append(tail[opening.end() : end].strip())
        position = end + len(opening.group())
        joint = _JOINT.match(tail, position)
        if joint is None:
            break
        position = joint.end()
    percent = pieces and re.match(r"\s?(?:\\?%|percent)", tail[position:])
    return _listed(pieces) + (r"\%" if percent else "")
