"""The harmony format of gpt-oss, through its own library: channels, recipients, a built-in Python tool.

The library writes and reads token ids, so nothing that a model or its code prints can pass for a special
token. It carries its vocabulary (oss-harmony), or reads it from `TIKTOKEN_ENCODINGS_BASE` (openai-harmony,
which else downloads it: put the file into the bundle).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from submission.agents.formats.base import MAX_CODE_CHARS, Call, ChatEngine, TextEngine, shortened
from submission.engines.base import Message

TOOL = "python"


class Harmony:
    """See `submission.agents.formats.base.ToolFormat`.

    Args:
        effort: how much reasoning the system message asks for: "low", "medium" or "high".
    """

    stops: tuple[str, ...] = ()

    def __init__(self, effort: str = "high") -> None:
        self._encoding = _encoding()
        self._effort = effort
        self.stop_token_ids: tuple[int, ...] = tuple(self._encoding.stop_tokens_for_assistant_actions())

    def prompt(self, engine: ChatEngine, messages: Sequence[Message]) -> list[int]:  # noqa: ARG002 - the library's ids are the model's
        """System message with the tool, the role's own as the developer's, the user's turn."""
        import openai_harmony as harmony

        system = (
            harmony.SystemContent.new()
            .with_reasoning_effort(harmony.ReasoningEffort(self._effort.capitalize()))
            .with_python_tool()
        )
        turns = [harmony.Message.from_role_and_content(harmony.Role.SYSTEM, system)]
        for message in messages:
            if message.role == "system":
                content = harmony.DeveloperContent.new().with_instructions(message.content)
                turns.append(harmony.Message.from_role_and_content(harmony.Role.DEVELOPER, content))
            else:
                turns.append(harmony.Message.from_role_and_content(message.role, message.content))
        return self._render(turns)

    def call(self, engine: TextEngine, ids: Sequence[int]) -> Call | None:  # noqa: ARG002
        """The last message of the round, where it is whole and addressed to the tool."""
        import openai_harmony as harmony

        if not ids or ids[-1] not in self.stop_token_ids:
            return None
        try:
            said = self._encoding.parse_messages_from_completion_tokens(list(ids), harmony.Role.ASSISTANT)
        except Exception:  # noqa: BLE001 - the library raises its own and Rust's; a broken message is no call
            return Call(None)
        if not said or said[-1].recipient in (None, "all", "assistant"):
            return None
        last = said[-1]
        code = "".join(getattr(part, "text", "") for part in last.content)
        known = str(last.recipient).partition(".")[0] == TOOL and 0 < len(code) <= MAX_CODE_CHARS
        return Call(code if known else None)

    def reply(self, engine: TextEngine, output: str, limit: int) -> list[int]:  # noqa: ARG002
        """The tool's message, and the beginning of the assistant's next."""
        import openai_harmony as harmony

        author = harmony.Author.new(harmony.Role.TOOL, TOOL)
        message = harmony.Message.from_author_and_content(author, shortened(output, limit))
        return self._render([message.with_channel("analysis").with_recipient("assistant")])

    def _render(self, turns: Sequence[Any]) -> list[int]:
        import openai_harmony as harmony

        conversation = harmony.Conversation.from_messages(list(turns))
        rendered = self._encoding.render_conversation_for_completion(conversation, harmony.Role.ASSISTANT)
        return [int(token) for token in rendered]


@cache
def _encoding() -> Any:
    try:
        import openai_harmony as harmony

        return harmony.load_harmony_encoding(harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
    except Exception as error:
        raise ValueError(
            f"tools = 'harmony' needs the harmony library and its vocabulary, without a network: {error}. "
            "Set TIKTOKEN_ENCODINGS_BASE to a folder that holds o200k_base.tiktoken"
        ) from error
