"""From a record to token ids, the way that the contest will prompt the model.

The prompt is rendered by the model's chat template with the generation prompt; the completion is tokenized by
itself and followed by the token that ends a turn. Templates are not asked to render the completion: those of
reasoning models cut the thought out of past turns, and would train a student not to think.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kit.data.records import Record
from kit.training.rows import TokenRow

_PROBE = "probe7answer"
_THOUGHT = re.compile(r"<think>\s*$")


class UnusableError(Exception):
    """A record that cannot be trained on; the message is the reason, the same for all of its kind."""


@dataclass(frozen=True)
class Chat:
    """A tokenizer with its template, looked at once.

    Args:
        end_id: the token that ends an assistant's turn.
        opening: what the template itself writes of an answer (`<think>` and a newline in some); a completion
            that begins with it loses it there, so that it comes once.
    """

    tokenizer: Any
    end_id: int
    opening: str
    instruction: str = ""

    def prompt(self, record: Record) -> list[int]:
        """Ids up to and including the generation prompt."""
        if any(mark in record.problem or mark in record.system for mark in self._marks):
            raise UnusableError("a control token of the template stands in the prompt")
        messages = [{"role": "system", "content": record.system}] if record.system else []
        question = f"{record.problem}\n\n{self.instruction}" if self.instruction else record.problem
        messages.append({"role": "user", "content": question})
        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # noqa: BLE001 - templates raise what they like, a system message for one
            raise UnusableError(f"the chat template fails: {str(error)[:80]}") from None
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def completion(self, record: Record) -> list[int]:
        """Ids of the completion and its end; as the teacher sampled them where they mean the same here."""
        text, mark = record.completion, self.opening.rstrip()
        if mark and text.startswith(mark):  # the prompt ends with it
            text = text[len(self.opening if text.startswith(self.opening) else mark) :]
        if not text:
            raise UnusableError("no completion")
        ids = list(record.completion_ids)
        if ids and self._says(ids, text):
            # A completion that ends with no special token was cut short: no end is put where none was.
            return [*ids[:-1], self.end_id] if ids[-1] in self._special else ids
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        while ids and ids[-1] == self.end_id:  # some sets write it out
            ids.pop()
        if self.end_id in ids:
            raise UnusableError("the token that ends a turn stands within the completion")
        return [*ids, self.end_id]

    def row(self, record: Record, max_length: int, overlong: str, source: int = 0) -> tuple[TokenRow, bool]:
        """A row whose completion is trained, and whether it was cut.

        Raises:
            UnusableError: there is no completion, it cannot be said in tokens, or it is over length and
                `overlong` is "drop".
        """
        try:
            f"{record.system}{record.problem}{record.completion}".encode()
        except UnicodeEncodeError:
            raise UnusableError("a lone surrogate, which is no Unicode text") from None
        prompt, completion = self.prompt(record), self.completion(record)
        ids = prompt + completion
        if not prompt:
            raise UnusableError("the prompt is empty")
        cut = len(ids) > max_length
        if cut and overlong == "drop":
            raise UnusableError("longer than batch.max_length")
        if len(prompt) >= max_length:
            raise UnusableError("prompt alone as long as batch.max_length")
        mask = np.zeros(len(ids), np.uint8)
        mask[len(prompt) :] = 1
        return TokenRow(np.array(ids[:max_length], np.int32), mask[:max_length], source), cut

    def _says(self, ids: list[int], text: str) -> bool:
        """Whether the ids are those of the text, and at most the last of them is special."""
        if max(ids) >= len(self.tokenizer) or min(ids) < 0 or not self._special.isdisjoint(ids[:-1]):
            return False
        decoded = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return bool(decoded == text)

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """Special tokens as text: a problem that holds one could end its own turn."""
        return tuple(self.tokenizer.convert_ids_to_tokens(sorted(self._special)))

    @cached_property
    def _special(self) -> frozenset[int]:
        """Ids that decoding leaves out."""
        added = self.tokenizer.added_tokens_decoder
        marked = {index for index, token in added.items() if token.special}
        return frozenset(marked.union(self.tokenizer.all_special_ids))


def open_chat(tokenizer: Any, what: str = "the model", instruction: str = "") -> Chat:
    """Look at the template once: how does a turn open and end?

    Raises:
        ValueError: there is no chat template, it fails, or nothing ends a turn.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer of {what} has no chat template, so nobody knows how to prompt it: take the "
            "tokenizer of its instruct model (model.tokenizer), or put a chat_template.jinja into its folder"
        )
    question = [{"role": "user", "content": "question"}]
    try:
        opened = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        answered = tokenizer.apply_chat_template(
            [*question, {"role": "assistant", "content": _PROBE}], tokenize=False
        )
    except Exception as error:  # noqa: BLE001 - templates raise what they like
        raise ValueError(f"the chat template of {what} fails on a question and an answer: {error}") from None
    tail = answered.rpartition(_PROBE)[2] if _PROBE in answered else ""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    end = next((item for item in ids if item in special), tokenizer.eos_token_id)
    if end is None:
        raise ValueError(
            f"nothing ends a turn: the tokenizer of {what} has no end token and its template none"
        )
    opening = _THOUGHT.search(opened)
    return Chat(tokenizer, int(end), opening[0] if opening else "", instruction)
