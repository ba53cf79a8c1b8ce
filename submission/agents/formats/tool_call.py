"""Calls as JSON between <tool_call> tags: the format of the Qwen and Hermes chat templates.

The template itself tells the model of the tool; the output comes back as a turn of the user's.
"""

import json
from collections.abc import Sequence

from submission.agents.formats.base import MAX_CODE_CHARS, Call, ChatEngine, TextEngine, shortened
from submission.engines.base import Message

BEGIN, END = "<tool_call>", "</tool_call>"
TOOL = "python"
_TURN = "<|im_end|>\n<|im_start|>user\n<tool_response>\n"
_BACK = "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


class ToolCall:
    """See `submission.agents.formats.base.ToolFormat`."""

    stops: tuple[str, ...] = (END,)
    stop_token_ids: tuple[int, ...] = ()

    def prompt(self, engine: ChatEngine, messages: Sequence[Message]) -> list[int]:
        """The chat with the tool's description, where the checkpoint's template puts it."""
        return engine.encode_chat(messages, tools=True)

    def call(self, engine: TextEngine, ids: Sequence[int]) -> Call | None:
        """A round that ends with the closing tag is a call."""
        text = engine.decode_text(ids)
        if not text.rstrip().endswith(END):
            return None
        _, opened, inner = text.rstrip()[: -len(END)].rpartition(BEGIN)
        return Call(code_of(inner) if opened else None)

    def reply(self, engine: TextEngine, output: str, limit: int) -> list[int]:
        """The template's own turns around the output, which stays plain text whatever it holds."""
        plain = engine.encode_text(shortened(output, limit))
        return [*engine.encode_markup(_TURN), *plain, *engine.encode_markup(_BACK)]


def code_of(inner: str) -> str | None:
    """The code of a call's JSON; None where it is anything but a call of the tool with its one argument."""
    try:
        call = json.loads(inner)
        arguments = call["arguments"]
        # Some checkpoints write the arguments as JSON within JSON.
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        code = arguments["code"]
        named = call["name"] == TOOL and set(arguments) == {"code"}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return code if named and isinstance(code, str) and len(code) <= MAX_CODE_CHARS else None
