r"""Code that a model wants to run, found in what it wrote: fenced blocks, strictly.

The format is that of the tool-integrated models (ToRA, Gou et al. 2023; NuminaMath-TIR; Qwen2.5-Math): a
block fenced as ```python, closed by ``` at the start of a line, and then "```output", where the model is
stopped.
"""

import re

OUTPUT_MARK = "```output"
"""Where the model expects the output of its code: the stop string of a round."""
_BLOCK = re.compile(r"^```(?:python|py)[ \t]*\n(.*?)^```[ \t]*$", flags=re.DOTALL | re.MULTILINE)
MAX_CODE_CHARS = 50_000


def code_to_run(text: str) -> str | None:
    """The last whole block of a round, if nothing but space stands between it and the output mark.

    Args:
        text: what the model wrote in this round, up to and without `OUTPUT_MARK`.

    Returns:
        The code, or None where there is no whole block there (none at all, one cut off, prose after it, or
        one over `MAX_CODE_CHARS`): half a block is never run.
    """
    last = None
    for found in _BLOCK.finditer(text):
        last = found
    if last is None or text[last.end() :].strip() or len(last[1]) > MAX_CODE_CHARS:
        return None
    return last[1]


def output_block(output: str, limit: int) -> str:
    """What follows the output mark: the output, its middle cut to `limit` characters, and the closing fence.

    A fence within the output is broken up, so that it closes nothing.
    """
    shown = output.replace("```", "`\u200b``")
    if len(shown) > limit:
        head = limit - limit // 4
        shown = f"{shown[:head]}\n... {len(shown) - limit} characters left out ...\n{shown[-(limit // 4) :]}"
    return f"\n{shown.rstrip()}\n```\n"
