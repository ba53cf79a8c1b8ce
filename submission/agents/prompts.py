"""From a role's prompt and a problem to a chat. Texts of problems and models are data: put in, never read."""

import re
from collections.abc import Mapping, Sequence

from submission.agents.team import ANSWER, CANDIDATE, CANDIDATES, PROBLEM, Role
from submission.engines.base import Message

_MARKS = re.compile("|".join(map(re.escape, (PROBLEM, CANDIDATE, CANDIDATES, ANSWER))))


def solver_chat(role: Role, system: str, problem: str) -> list[Message]:
    """The chat of an attempt; `system` is used where the role has no system prompt of its own."""
    return _chat(role, system, {PROBLEM: problem})


def verifier_chat(role: Role, problem: str, candidate: str, answer: object) -> list[Message]:
    """The chat that asks whether a candidate's write-up is right."""
    return _chat(role, "", {PROBLEM: problem, CANDIDATE: candidate, ANSWER: str(answer)})


def selector_chat(role: Role, problem: str, write_ups: Sequence[str]) -> list[Message]:
    """The chat that asks which of the write-ups is right; they are numbered from 0."""
    listed = "\n\n".join(f"### Solution {number}\n\n{text}" for number, text in enumerate(write_ups))
    return _chat(role, "", {PROBLEM: problem, CANDIDATES: listed})


def _chat(role: Role, system: str, values: Mapping[str, str]) -> list[Message]:
    # In one pass: a mark within a problem or a write-up is text like any other.
    user = _MARKS.sub(lambda found: values.get(found[0], found[0]), role.user_prompt)
    opening = system if role.system_prompt is None else role.system_prompt
    return [*([Message("system", opening)] if opening else []), Message("user", user)]


def clipped(text: str, chars: int) -> str:
    """The end of a write-up, where its conclusion is, with a mark where something was left out."""
    return text if len(text) <= chars else f"[...]\n{text[len(text) - chars :]}"
