"""How a model asks for its code to be run, and how it is told what the code printed: one file a format."""

from submission.agents.formats.base import Call, TextEngine, ToolFormat
from submission.agents.formats.fenced import Fenced

__all__ = ["FORMATS", "Call", "Fenced", "TextEngine", "ToolFormat", "make_format"]

FORMATS = ("fenced", "tool_call", "harmony")


def make_format(name: str) -> ToolFormat:
    """The format of that name (see `FORMATS`); harmony's library is imported only where it is used.

    Raises:
        ValueError: there is no such format, or its library or vocabulary is not there.
    """
    if name == "fenced":
        return Fenced()
    if name == "tool_call":
        from submission.agents.formats.tool_call import ToolCall

        return ToolCall()
    if name == "harmony":
        from submission.agents.formats.harmony import Harmony

        return Harmony()
    raise ValueError(f"no tool format {name!r}; there are {', '.join(FORMATS)}")
