"""Rewards of one completion: answer, format, repetition, tool calls. Pure but for the symbolic checker."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal

from submission.answers import Gold, check
from submission.parsing.extraction import boxes

if TYPE_CHECKING:
    from submission.parsing.symbolic import SymbolicChecker

_OPEN, _CLOSE = "<think>", "</think>"


def answer(
    text: str,
    gold: Gold,
    finish: Literal["stop", "length"],
    checker: "SymbolicChecker | None" = None,
    *,
    accept_cut_off: bool = False,
) -> float:
    """1 where the final answer equals gold (`submission.answers.check`), else 0.

    Args:
        text: the completion.
        gold: from `submission.answers.parse_gold`, which refuses what cannot be parsed.
        finish: a completion that the limit cut ("length") is never right, whatever it says.
        checker: decides what exact rules cannot; without it such answers are wrong.
        accept_cut_off: let a cut completion be right all the same.
    """
    if finish == "length" and not accept_cut_off:
        return 0.0
    return float(check(text, gold, checker))


def format_reward(text: str, *, think: bool = False, think_in_prompt: bool = False) -> float:
    r"""1 where the completion has exactly one `\boxed{}` or `\fbox{}`, closed and not empty, else 0.

    Args:
        text: the completion.
        think: it must also begin with exactly one `<think>...</think>` (R1, arXiv 2501.12948), and the box
            stand after that; boxes within the thought do not count.
        think_in_prompt: the chat template ends in `<think>`, so the completion may lack it.
    """
    if think:
        opened, closed = text.count(_OPEN), text.count(_CLOSE)
        begins = text.lstrip().startswith(_OPEN)
        if closed != 1 or opened > 1 or begins != (opened == 1) or not (begins or think_in_prompt):
            return 0.0
        text = text.partition(_CLOSE)[2]
    commands = text.count("\\boxed") + text.count("\\fbox")
    return float(commands == 1 and len(list(boxes(text))) == 1)


def repetition(tokens: Sequence[Hashable], n: int = 20) -> float:
    """Share of n-grams that occurred before, negated: distinct / all - 1, in (-1, 0].

    The n-gram penalty of Yeo et al. 2025 (arXiv 2502.03373, appendix) as one number a completion, as in
    open-r1. Fewer than n tokens have no n-gram, and give 0.

    Args:
        tokens: token ids or words.
        n: length of an n-gram, at least 1.

    Raises:
        ValueError: n below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; an n-gram has at least 1 token")
    total = len(tokens) - n + 1
    if total < 1:
        return 0.0
    return len({tuple(tokens[start : start + n]) for start in range(total)}) / total - 1.0


def tool_success(calls: int, errors: int) -> float:
    """Share of tool calls that did not fail, in [0, 1]; 0 where there was none.

    Args:
        calls: tool calls that ran.
        errors: those of them that failed.
    """
    assert 0 <= errors <= calls, "failed calls are calls"
    return (calls - errors) / calls if calls else 0.0
