"""What a verifier or a selector said, read strictly: whatever is not the asked form is no verdict."""

import re

from submission.parsing.extraction import extract

_RIGHT = {"correct", "right", "yes", "true"}
_WRONG = {"incorrect", "wrong", "no", "false"}
_TEXT = re.compile(r"^\\text(?:bf|rm)?\{(.*)\}$", flags=re.DOTALL)


def verdict(text: str) -> bool | None:
    r"""Whether a verifier calls the candidate right: its last \boxed{} holds "correct" or "incorrect"."""
    said = _boxed(text).lower().rstrip(".!")
    if said in _RIGHT:
        return True
    return False if said in _WRONG else None


def pick(text: str, count: int) -> int | None:
    r"""Which of `count` candidates a selector picks: its last \boxed{} holds a number from 0."""
    said = _boxed(text)
    if not (said.isascii() and said.isdigit() and len(said) <= 4):
        return None
    return int(said) if int(said) < count else None


def _boxed(text: str) -> str:
    found = extract(text)
    if found is None or found.source != "boxed":
        return ""
    said = found.text.strip()
    wrapped = _TEXT.match(said)
    return (wrapped[1] if wrapped else said).strip()
