"""A solution cut into its steps, the units that a process reward model scores.

A step is a paragraph, a numbered item or a titled section ("Step 3:", "**Step 2:**", "## …"); in a text
without blank lines, a line. Display maths, environments and fenced code are never cut. Time is linear in the
text's length.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator

LONGEST = 2_000
"""Characters of a step; a longer one is cut at its line breaks and ends of sentences, where it has any."""
THINK, END_THINK = "<think>", "</think>"

_MARK = re.compile(
    r" {0,3}(?:#{1,6}[ \t]|(?:\*\*|__)?(?:[Ss]tep|STEP)[ \t]*\d|(?:\*\*)?\d{1,3}[.)](?:\*\*)?[ \t])"
)
_TITLE = re.compile(r"#{1,6}[ \t].*|\*\*[^*\n]{1,120}\*\*:?|(?:[Ss]tep|STEP)[ \t]*\d{1,4}[ \t]*[:.]?")
_SENTENCE = re.compile(r"[.!?:;]\s+(?=[A-Z\\$*(])")
# `\\` and `\$` come first, so that the row break `\\[4pt]` and the amount `\$$` open nothing.
_BLOCK = re.compile(
    r"\\\\|\\\$|\\[\[\]]|\\(begin|end)\{([A-Za-z]{1,40}\*?)\}|\$\$|^[ \t]*(?:(`{3,})|(~{3,}))", re.MULTILINE
)


def split_steps(text: str) -> list[str]:
    """The steps in order, stripped, none empty; an empty text has none. Only white space is lost.

    A title by itself goes with what follows it. A block that is never closed protects nothing.
    """
    text = text.strip()
    if not text:
        return []
    blocks = _merged(sorted(_blocks(text)))
    cuts = _cuts(text, [at for at in _line_starts(text) if not _inside(at, blocks)])
    steps = []
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        if end - begin <= LONGEST:
            steps.append(text[begin:end].strip())
        else:
            steps += _shortened(text, begin, end, blocks)
    return steps


def write_up(text: str) -> str:
    """What a reasoning model writes after thinking: the text behind the last `</think>`.

    Text without that mark is a write-up itself; thoughts that were cut off have none.
    """
    _, mark, after = text.rpartition(END_THINK)
    if mark:
        return after.strip()
    return "" if text.lstrip().startswith(THINK) else text.strip()


def _line_starts(text: str) -> list[int]:
    """Where lines begin that hold more than white space, the first one left out."""
    starts = []
    at = text.find("\n") + 1
    while at:
        end = text.find("\n", at)
        if text[at : end if end >= 0 else None].strip():
            starts.append(at)
        at = end + 1
    return starts


def _cuts(text: str, starts: list[int]) -> list[int]:
    """Those of the line starts where a new step begins."""
    after_blank = [not text[text.rfind("\n", 0, at - 1) + 1 : at].strip() for at in starts]
    paragraphs = any(after_blank)
    cuts: list[int] = []
    begin = 0
    for at, blank in zip(starts, after_blank, strict=True):
        marked = _MARK.match(text, at)
        if not (blank or marked or not paragraphs):
            continue
        # A title longer than this is none, and a step may be a whole book.
        before = text[begin:at].strip() if at - begin < 300 else ""
        if marked or not _TITLE.fullmatch(before):
            cuts.append(at)
            begin = at
    return cuts


def _shortened(text: str, begin: int, end: int, blocks: list[tuple[int, int]]) -> Iterator[str]:
    """A long step in pieces of up to `LONGEST` characters, as far as it has places to cut."""
    places = {begin + at for at in _line_starts(text[begin:end])}
    places |= {match.end() for match in _SENTENCE.finditer(text, begin, end)}
    allowed = sorted(at for at in places if begin < at < end and not _inside(at, blocks))
    start, last = begin, begin
    for at in [*allowed, end]:
        if at - start > LONGEST and last > start:
            yield text[start:last].strip()
            start = last
        last = at
    yield text[start:end].strip()


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Closed blocks as (begin, end), nested ones too."""
    found = list(_BLOCK.finditer(text))
    last_fence = {match[match.lastindex or 0][0]: match.start() for match in found if _is_fence(match)}
    fence: re.Match[str] | None = None
    stack: list[tuple[str, int]] = []
    open_now: dict[str, int] = {}
    for match in found:
        if _is_fence(match):
            kind = match[match.lastindex or 0][0]
            if fence is None:
                # Nothing inside a fence counts, so one that stays open must not begin.
                fence = match if last_fence[kind] > match.start() else None
            elif fence[fence.lastindex or 0][0] == kind:
                yield fence.start(), match.end()
                fence = None
            continue
        key, opens = _maths(match)
        if fence is not None or not key:
            continue
        if key == "$$":
            opens = not open_now.get(key)
        if opens:
            stack.append((key, match.start()))
            open_now[key] = open_now.get(key, 0) + 1
        elif open_now.get(key):
            # What was opened since and not closed is no block.
            while True:
                name, begin = stack.pop()
                open_now[name] -= 1
                if name == key:
                    break
            yield begin, match.end()


def _is_fence(match: re.Match[str]) -> bool:
    return bool(match[3] or match[4])


def _maths(match: re.Match[str]) -> tuple[str, bool]:
    """What a mark opens or closes, and whether it opens; "" for one that is plain text."""
    mark = match[0]
    if match[1]:
        return match[2], match[1] == "begin"
    if mark in ("\\[", "\\]"):
        return "[", mark == "\\["
    return (mark if mark == "$$" else ""), True


def _merged(blocks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted blocks without the nested ones, overlapping ones as one."""
    merged: list[tuple[int, int]] = []
    for begin, end in blocks:
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _inside(at: int, blocks: list[tuple[int, int]]) -> bool:
    """Whether a cut here would part a block."""
    before = bisect_left(blocks, (at, at)) - 1
    return before >= 0 and at < blocks[before][1]
