"""From a problem and a solution's steps to token ids, the same way in training and in scoring."""

import re
from collections.abc import Sequence
from pathlib import Path

from submission.engines.base import Message
from submission.engines.tokenizer import ChatTokenizer, context_length
from submission.prm.heads import PrmConfig
from submission.prm.layout import Layout, Long, lay_out, without

_BLANK_LINES = re.compile(r"\n[ \t\r\n]*\n")


class StepEncoder:
    """A checkpoint's tokenizer under one form.

    Args:
        tokenizer: the checkpoint's, or its folder. Raises EngineError where it cannot be loaded.
        form: separator, system prompt and instruction.
    """

    def __init__(self, tokenizer: ChatTokenizer | Path, form: PrmConfig) -> None:
        self._chat = ChatTokenizer(tokenizer) if isinstance(tokenizer, Path) else tokenizer
        self._form = form
        encoded = self._chat.tokenizer(form.separator, add_special_tokens=False) if form.separator else None
        self.separator: list[int] = list(map(int, encoded["input_ids"])) if encoded else []
        """Ids after each step."""

    def prompt(self, problem: str) -> list[int]:
        """Ids of the chat up to where the solution begins.

        A separator that is no white space is taken out of the problem, too.
        """
        form = self._form
        text = neutral(problem, form.separator) if form.separator.strip() else problem
        if form.instruction:
            text = f"{text}\n\n{form.instruction}"
        system = [Message("system", form.system_prompt)] if form.system_prompt else []
        return self._chat.encode_chat([*system, Message("user", text)])

    def steps(self, steps: Sequence[str]) -> list[list[int]]:
        """Ids of each step, without a separator.

        A solution is a model's output: special tokens that it spells are read as plain text.
        """
        if not steps:
            return []
        texts = [neutral(step, self._form.separator) for step in steps]
        encoded = self._chat.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
        return [list(map(int, ids)) for ids in encoded["input_ids"]]

    def layouts(
        self, prompt: Sequence[int], steps: Sequence[str], max_context: int, long: Long = "windows"
    ) -> list[Layout]:
        """Sequences that score the steps of a solution; see `lay_out`."""
        return lay_out(prompt, self.steps(steps), self.separator, max_context, long)


def scored_context(folder: Path, form: PrmConfig) -> int:
    """Tokens of a sequence at most; EngineError where the config does not say.

    Log-probabilities of a prompt are read from engines that must generate a token after it: that one's place
    is kept free, so that every engine cuts alike.
    """
    return context_length(folder) - (form.head == "logprob")


def neutral(text: str, separator: str) -> str:
    """The text without the separator in it, so that a step cannot look like two.

    A separator of white space leaves a line break in its place; any other one leaves nothing.
    """
    if not separator or separator not in text:
        return text
    if separator.strip():
        return "".join(without(text, separator))
    text = _BLANK_LINES.sub("\n", text)
    # "\n" itself, or a run of blanks, as the separator: the words stay apart.
    return re.sub(f"(?:{re.escape(separator)})+", " ", text) if separator in text else text
