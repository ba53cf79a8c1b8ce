"""The function that the organiser's server calls. It never raises and always returns one row.

What the real gateway does with every other kind of reply ends in a lost problem or a lost run, so each
of those is closed off here, once, whatever stands behind.
"""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from submission.gateway.frames import answer_frame, question, single_value
from submission.problems import MAX_PROBLEM_CHARS

log = logging.getLogger(__name__)


def make_predict(answer: Callable[[str, str], int], low: int, high: int, default: int) -> Callable[..., Any]:
    """A plain function named `predict` (the organiser rejects lambdas and bound methods).

    Args:
        answer: from id and statement to an answer; may raise.
        low: least answer of the contest.
        high: greatest answer of the contest.
        default: given when `answer` raises or leaves the range.
    """

    def predict(*arguments: Any, **named: Any) -> Any:
        identifier: Any = ""
        value = default
        try:
            name, statement = question(arguments, named)
            identifier = single_value(name)
            problem = single_value(statement)
            # No contest problem is longer; one that is must not stall the tokenizer.
            text = str("" if problem is None else problem)[:MAX_PROBLEM_CHARS]
            value = answer(_plain(str(identifier)), _plain(text))
        # SystemExit and its kind too: whatever it is, no answer is worth the run.
        except BaseException:  # noqa: BLE001 - told
            _tell("predict failed; giving the default answer")
        try:
            return answer_frame(identifier, in_range(value, low, high, default))
        except BaseException:  # noqa: BLE001 - told
            _tell("the id cannot be sent back")
            return answer_frame("", in_range(value, low, high, default))

    return predict


def _plain(text: str) -> str:
    """Without lone surrogates, which tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _tell(what: str) -> None:
    """Log the exception that is being handled; a log that cannot be written is no reason to lose the run."""
    with contextlib.suppress(BaseException):
        log.exception(what)


def in_range(value: Any, low: int, high: int, default: int) -> int:
    """`value` as a plain int if it is an integer within the range, else `default`."""
    try:
        integer = int(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return integer if integer == value and low <= integer <= high else default
