r"""Code in fenced blocks, output in fenced blocks: the format of the tool-integrated models.

ToRA (Gou et al. 2023), NuminaMath-TIR, Qwen2.5-Math: a block fenced as ```python, closed by ``` at the start
of a line, and then "```output", where the model is stopped.
"""

import re
from collections.abc import Sequence

from submission.agents.formats.base import MAX_CODE_CHARS, Call, ChatEngine, TextEngine, shortened
from submission.engines.base import Message

OUTPUT_MARK = "```output"
"""Where the model expects the output of its code: the stop string of a round."""
_FENCE = re.compile(r"^```(python|py)?[ \t]*$", flags=re.MULTILINE)


class Fenced:
    """See `submission.agents.formats.base.ToolFormat`."""

    stops: tuple[str, ...] = (OUTPUT_MARK,)
    stop_token_ids: tuple[int, ...] = ()

    def prompt(self, engine: ChatEngine, messages: Sequence[Message]) -> list[int]:
        """The chat as it is: the system message tells the model of its tool."""
        return engine.encode_chat(messages)

    def call(self, engine: TextEngine, ids: Sequence[int]) -> Call | None:
        """A call is whatever ends with the output mark; half a block before it is never run."""
        # With a stop string the engine ends behind it, so it can only stand at the end of what it wrote.
        said, mark, _ = engine.decode_text(ids).rpartition(OUTPUT_MARK)
        return Call(code_to_run(said)) if mark else None

    def reply(self, engine: TextEngine, output: str, limit: int) -> list[int]:
        """What follows the output mark: the output and the closing fence."""
        return engine.encode_text(output_block(output, limit))


def code_to_run(text: str) -> str | None:
    """The last whole block of a round, if nothing but space stands between it and the output mark.

    Args:
        text: what the model wrote in this round, up to and without `OUTPUT_MARK`.

    Returns:
        The code, or None where there is no whole block there (none at all, one cut off, prose after it, or
        one over `MAX_CODE_CHARS`): half a block is never run.
    """
    # Fence by fence: one pattern for a whole block would look for the end anew from every fence that opens
    # one, which took seconds of the contest's event loop on a text of nothing but these.
    opened: re.Match[str] | None = None
    code, end = None, 0
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence if fence[1] else None
        elif not fence[1]:
            code, end, opened = text[opened.end() + 1 : fence.start()], fence.end(), None
    if code is None or text[end:].strip() or len(code) > MAX_CODE_CHARS:
        return None
    return code


def output_block(output: str, limit: int) -> str:
    """The output, its middle cut to `limit` characters, and the closing fence.

    A fence within the output is broken up, so that it closes nothing.
    """
    shown = shortened(output.replace("```", "`\u200b``"), limit)
    return f"\n{shown.rstrip()}\n```\n"
