"""Chats as tokens of the model that serves now, where another model may come to serve."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from submission.degrade import Serving
from submission.engines import make_engine
from submission.engines.base import EngineError, Message
from submission.engines.tokenizer import CheckpointEngine

KEPT = 64
"""Chats remembered: a problem has one, or one an agent."""


class Encoder(Protocol):
    """The tokenizing side of an `Engine`."""

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        """Token ids of a chat with the generation prompt appended; `tools` offers the Python tool."""

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: nothing in it becomes a special token."""

    def encode_markup(self, text: str) -> list[int]:
        """Token ids of a template's own text, special tokens recognised. Never for text from a model."""

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    def count_tokens(self, text: str) -> int:
        """Tokens of plain text, without special tokens."""


def load_encoder(serving: Serving) -> Encoder:
    """The tokenizer of a model, without the model; takes seconds, for imports. Raises EngineError."""
    if serving.settings.kind == "replay":
        return make_engine(serving.settings, serving.model)
    assert serving.model is not None, "only recorded samples have no model"
    encoder = CheckpointEngine()
    encoder.load_tokenizer(serving.model, serving.settings.max_model_len)
    return encoder


@dataclass(frozen=True)
class _Chat:
    """What a prompt was made of, and for which model."""

    messages: tuple[Message, ...]
    tools: bool
    model: Path | None


class Prompts:
    """Encodes chats, and knows of a prompt which model's tokens it holds."""

    def __init__(self) -> None:
        self._model: Path | None = None
        self._encoder: Encoder | None = None
        self._chats: OrderedDict[tuple[int, ...], _Chat] = OrderedDict()
        self._switched = False

    @property
    def encoder(self) -> Encoder:
        """Of the model that serves."""
        assert self._encoder is not None, "start() first"
        return self._encoder

    def serves(self, model: Path | None) -> bool:
        """Whether the encoder is this model's."""
        return self._encoder is not None and self._model == model

    def switch(self, model: Path | None, encoder: Encoder) -> None:
        """From now on another model serves."""
        self._switched = self._encoder is not None
        self._model, self._encoder = model, encoder

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        """Token ids of a chat, which is remembered by them."""
        ids = self.encoder.encode_chat(messages, tools=tools)
        self._chats[tuple(ids)] = _Chat(tuple(messages), tools, self._model)
        self._chats.move_to_end(tuple(ids))
        if len(self._chats) > KEPT:
            self._chats.popitem(last=False)
        return ids

    def translate(self, prompt: Sequence[int]) -> Sequence[int]:
        """The prompt in the tokens of the model that serves; unchanged where it is no known chat.

        Raises:
            EngineError: it goes on after the chat, and in another model's tokens.
        """
        if not self._switched:
            return prompt
        for ids, chat in reversed(self._chats.items()):
            if tuple(prompt[: len(ids)]) != ids:
                continue
            if chat.model == self._model:
                return prompt
            encoded = self.encoder.encode_chat(chat.messages, tools=chat.tools)
            if len(prompt) > len(ids) and tuple(encoded) != ids:
                raise EngineError("the sample was begun in the tokens of a model that no longer serves")
            return [*encoded, *prompt[len(ids) :]]
        return prompt
