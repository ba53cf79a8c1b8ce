"""Token ids of a solution with exactly one place a step at which a process reward model is read.

Training labels and served scores come from the same layout, so that no step can lose its label, or get two:

    prompt | step 1 | separator | step 2 | separator | …
                            ^end                ^end

What the model is read at is counted, never searched for: a separator that a step's own text spells is taken
out of it, and would not be read if it were there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")
Long = Literal["windows", "last"]
"""What becomes of a solution longer than the context: windows that score every step, or its last steps."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One sequence for the model, and where the steps that it scores lie in it.

    Args:
        ids: prompt, then steps, each with its separator; at most the context.
        ends: one place a scored step, ascending: the separator's last token; without a separator the step's
            own; of an empty step without a separator the token before it.
        spans: each scored step's own tokens, without its separator: `ids[begin:end]`.
        first: number of the first scored step in the whole solution, from 0; steps before it that are in
            `ids` are context.
    """

    ids: tuple[int, ...]
    ends: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    first: int = 0


def lay_out(
    prompt: Sequence[int],
    steps: Sequence[Sequence[int]],
    separator: Sequence[int],
    max_context: int,
    long: Long = "windows",
) -> list[Layout]:
    """Sequences that score the steps, each step once, in order; none where there is no step.

    What fits the context is one sequence. Beyond it, `last` gives one, with the last steps that fit behind
    the prompt. `windows` scores every step: the first window takes the steps from the start that fit, each
    later one new steps in up to half of the room behind the prompt, and before them as many whole earlier
    steps as fit. A step that does not fit by itself is cut at its start: its end is what is judged. A prompt
    longer than half of the context is cut so likewise where it has to make room.

    Args:
        prompt: the problem's ids, with the chat template's generation prompt; at least one.
        steps: each step's ids, without a separator; may be empty.
        separator: ids after each step; empty for a model that is read at the step's last token. Its
            occurrences inside a step are taken out.
        max_context: tokens of a sequence at most.
        long: for solutions beyond it.

    Raises:
        ValueError: no prompt, or a context with no room for a prompt, a token and the separator.
    """
    if not prompt:
        raise ValueError("the prompt has no token: a process reward model needs the problem before the steps")
    if max_context < 2 * (len(separator) + 1):
        raise ValueError(
            f"a context of {max_context} tokens has no room for a step with its separator of "
            f"{len(separator)}: raise the context"
        )
    blocks = [[*without(step, separator), *separator] for step in steps]
    whole = len(prompt) + sum(map(len, blocks))
    if whole > max_context:
        prompt = prompt[-(max_context // 2) :]
    room = max_context - len(prompt)
    blocks = [block[-room:] for block in blocks]
    found = []
    for context, begin, end in _windows([len(block) for block in blocks], room, long):
        found.append(_sequence(prompt, blocks[context:end], begin - context, begin, len(separator)))
    return found


def without(ids: Sequence[T], separator: Sequence[T]) -> list[T]:
    """The ids with every occurrence of the separator taken out, those that the removal forms included."""
    size, mark, kept = len(separator), list(separator), list[T]()
    for token in ids:
        kept.append(token)
        if size and kept[-size:] == mark:
            del kept[-size:]
    return kept


def _windows(sizes: Sequence[int], room: int, long: Long) -> list[tuple[int, int, int]]:
    """(first step of the context, first scored step, end) of each sequence."""
    count = len(sizes)
    if not count:
        return []
    if long == "last":
        start = _back(sizes, count, room)
        return [(start, start, count)]
    found, begin = [], 0
    while begin < count:
        limit = room if begin == 0 else room // 2
        end, used = begin + 1, sizes[begin]
        while end < count and used + sizes[end] <= limit:
            used += sizes[end]
            end += 1
        found.append((_back(sizes, begin, room - used), begin, end))
        begin = end
    return found


def _back(sizes: Sequence[int], end: int, room: int) -> int:
    """The first of the most steps before `end` that fit the room together."""
    start = end
    while start and sizes[start - 1] <= room:
        start -= 1
        room -= sizes[start]
    return start


def _sequence(
    prompt: Sequence[int], blocks: Sequence[Sequence[int]], context: int, first: int, size: int
) -> Layout:
    """Prompt and blocks as one sequence; the first `context` blocks are not scored."""
    ids, ends, spans = list(prompt), [], []
    for number, block in enumerate(blocks):
        begin = len(ids)
        ids += block
        if number >= context:
            ends.append(len(ids) - 1)
            spans.append((begin, len(ids) - size))
    return Layout(tuple(ids), tuple(ends), tuple(spans), first)
