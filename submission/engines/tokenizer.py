"""A checkpoint's tokenizer, chat template and context length, read from local files only."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submission.engines.base import EngineError, Message

PYTHON_TOOL = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Run Python code. Variables are kept from call to call. What is printed comes back, "
        "and the value of the last expression.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The code to run."}},
            "required": ["code"],
        },
    },
}


class ChatTokenizer:
    """A model folder's tokenizer. Raises EngineError if it cannot be loaded or lacks a chat template."""

    def __init__(self, model: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                str(model), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise EngineError(f"the tokenizer of {model} cannot be loaded: {error}") from error
        if not self.tokenizer.chat_template:
            raise EngineError(
                f"the tokenizer of {model} has no chat template: add chat_template.jinja to that folder"
            )

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        """Token ids of the rendered chat with the generation prompt.

        Raises:
            EngineError: `tools` is asked for, and the template knows of none.
        """
        from jinja2 import TemplateError

        if tools:
            self._check_tools(messages)
        try:
            text = self._render(messages, tools=tools)
        except TemplateError:
            # Some templates refuse a system turn: its text then opens the user's turn.
            if len(messages) < 2 or messages[0].role != "system":
                raise
            merged = Message("user", f"{messages[0].content}\n\n{messages[1].content}")
            text = self._render([merged, *messages[2:]], tools=tools)
        # The template writes its own special tokens: adding them again would double the BOS.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _render(self, messages: Sequence[Message], *, tools: bool = False) -> str:
        chat = [{"role": message.role, "content": message.content} for message in messages]
        return str(
            self.tokenizer.apply_chat_template(
                chat, tools=[PYTHON_TOOL] if tools else None, tokenize=False, add_generation_prompt=True
            )
        )

    def _check_tools(self, messages: Sequence[Message]) -> None:
        """A template without a place for tools leaves them out in silence."""
        if self._render(messages, tools=True) == self._render(messages):
            raise EngineError("the chat template has no place for tools: take a team with tools = 'fenced'")

    def count(self, text: str) -> int:
        """Tokens of plain text without special tokens."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


class CheckpointEngine:
    """What every engine that serves a model folder does with its tokenizer."""

    _tokenizer: ChatTokenizer | None = None
    _max_context: int = 0

    def load_tokenizer(self, model: Path, max_model_len: int) -> None:
        """Read the tokenizer; the context is the checkpoint's own, cut to `max_model_len`."""
        self._tokenizer = ChatTokenizer(model)
        self._max_context = min(max_model_len, context_length(model))

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        """Token ids of the chat through the checkpoint's own template."""
        assert self._tokenizer is not None, "start() first"
        return self._tokenizer.encode_chat(messages, tools=tools)

    def encode_markup(self, text: str) -> list[int]:
        """Token ids of a template's own text: special tokens are recognised, none is added."""
        assert self._tokenizer is not None, "start() first"
        return list(map(int, self._tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]))

    def count_tokens(self, text: str) -> int:
        """Tokens of plain text."""
        assert self._tokenizer is not None, "start() first"
        return self._tokenizer.count(text)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: special tokens are neither added nor recognised in it."""
        assert self._tokenizer is not None, "start() first"
        encoded = self._tokenizer.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(map(int, encoded["input_ids"]))

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        assert self._tokenizer is not None, "start() first"
        decode = self._tokenizer.tokenizer.decode
        return str(decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @property
    def max_context(self) -> int:
        """Prompt and completion tokens together at most."""
        return self._max_context


def context_length(model: Path) -> int:
    """`max_position_embeddings` of a checkpoint. Raises EngineError if its config cannot be read."""
    path = Path(model) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        return int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path} does not tell max_position_embeddings: {error!r}") from error
