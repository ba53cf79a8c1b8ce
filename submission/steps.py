"""A solution cut into its steps, the units that a process reward model scores."""

import re

_BLANK_LINE = re.compile(r"\n[ \t\r]*\n\s*")


def split_steps(text: str) -> list[str]:
    """Paragraphs of a solution, stripped, empty ones left out; a text without any is one step."""
    return [step for part in _BLANK_LINE.split(text) if (step := part.strip())] or [text.strip()]
