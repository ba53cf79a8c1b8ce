"""What a tool format must do: write the prompt, find a call at the end of a round, write the reply."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from submission.engines.base import Chunk, Message, SampleRequest

MAX_CODE_CHARS = 50_000
"""Longer code is not run: no person and no model means it."""


class TextEngine(Protocol):
    """What a writer needs of an engine; see `submission.engines.base.Engine`."""

    def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        """Stream one sample."""

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: nothing in it becomes a special token."""

    def encode_markup(self, text: str) -> list[int]:
        """Token ids of the template's own text, special tokens recognised. Never for text from a model."""

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""


class ChatEngine(TextEngine, Protocol):
    """The same with chats, for prompts."""

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        """Token ids of a chat with the generation prompt; `tools` tells the template of the Python tool."""


@dataclass(frozen=True)
class Call:
    """A model asked for code to be run. `code` is None where what it wrote is no whole call: never run."""

    code: str | None


class ToolFormat(Protocol):
    """One way in which models call a Python tool. Has no state: one object serves all samples."""

    stops: tuple[str, ...]
    """Strings that end a round, besides the request's own."""
    stop_token_ids: tuple[int, ...]
    """Tokens that do."""

    def prompt(self, engine: ChatEngine, messages: Sequence[Message]) -> list[int]:
        """Token ids of the chat, with whatever tells the model of its tool."""

    def call(self, engine: TextEngine, ids: Sequence[int]) -> Call | None:
        """The call at the end of a round's tokens (stop string or token included); None if it has none."""

    def reply(self, engine: TextEngine, output: str, limit: int) -> list[int]:
        """Tokens that tell the model the output, its middle cut to `limit` characters."""


def shortened(output: str, limit: int) -> str:
    """`output` with its middle cut, so that at most about `limit` characters of it are left.

    Lone surrogates, which code may well print and no tokenizer takes, become question marks.
    """
    output = output.encode("utf-8", "replace").decode("utf-8")
    if len(output) <= limit:
        return output
    head = limit - limit // 4
    tail = output[-(limit // 4) :] if limit // 4 else ""
    return f"{output[:head]}\n... {len(output) - limit} characters left out ...\n{tail}"
