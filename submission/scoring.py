"""Process reward model: how likely is each step of a candidate right. Breaks ties of the vote.

The scores decide only between answers with equally many votes: an uncalibrated PRM weight has been seen
to lose against the plain vote, so the vote comes first until a calibration says otherwise.
Lightman et al. 2023, "Let's Verify Step by Step": a solution is as good as its worst step (min).
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from submission.engines.base import EngineError, Message
from submission.engines.tokenizer import ChatTokenizer, context_length
from submission.offline import go_offline
from submission.steps import split_steps

# The separator of the Qwen PRMs; models without it were trained on paragraphs.
SEPARATORS = ("<extra_0>", "\n\n")


class Scorer(Protocol):
    """Scores candidates of one problem."""

    async def start(self) -> None:
        """Load whatever is needed; raises EngineError."""

    async def score(self, problem: str, completions: Sequence[str]) -> list[float]:
        """One value in 0..1 a completion, higher is better."""


class PrmScorer:
    """A `...ForTokenClassification` checkpoint with one or two labels (the last one means: right).

    Args:
        folder: local files: config, safetensors, tokenizer with a chat template; see `check_prm`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model: Any = None
        self._tokenizer: ChatTokenizer | None = None
        self._separator: list[int] = []
        self._max_context = 0

    async def start(self) -> None:
        """Load the weights in a thread."""
        try:
            await asyncio.to_thread(self._load)
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"PRM {self._folder} cannot be loaded: {error}") from error

    def _load(self) -> None:
        go_offline()
        import torch
        from transformers import AutoModelForTokenClassification

        self._tokenizer = ChatTokenizer(self._folder)
        vocabulary = self._tokenizer.tokenizer.get_vocab()
        mark = next((mark for mark in SEPARATORS if mark in vocabulary), SEPARATORS[-1])
        self._separator = self._tokenizer.tokenizer(mark, add_special_tokens=False)["input_ids"]
        self._max_context = context_length(self._folder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype: Any = "auto" if device == "cuda" else torch.float32
        self._model = AutoModelForTokenClassification.from_pretrained(
            str(self._folder),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        self._model.eval().to(device)

    async def score(self, problem: str, completions: Sequence[str]) -> list[float]:
        """The least step probability of each completion; the event loop stays free meanwhile."""
        return await asyncio.to_thread(lambda: [min(self.step_scores(problem, text)) for text in completions])

    def step_scores(self, problem: str, completion: str) -> list[float]:
        """Probability that each step is right. Of a text beyond the context the last steps are scored."""
        import torch

        assert self._tokenizer is not None, "start() first"
        prompt = self._tokenizer.encode_chat([Message("user", problem)])
        steps = [
            [*self._tokenizer.tokenizer(step, add_special_tokens=False)["input_ids"], *self._separator]
            for step in split_steps(completion)
        ]
        while len(steps) > 1 and len(prompt) + sum(map(len, steps)) > self._max_context:
            del steps[0]
        ids = list(prompt)
        ends = []
        for step in steps:
            ids += step
            ends.append(len(ids) - 1)
        # A single step beyond the context: its end is what is judged.
        cut = max(0, len(ids) - self._max_context)
        inputs = torch.tensor([ids[cut:]], device=self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=inputs).logits[0, [end - cut for end in ends]].float()
        if logits.shape[-1] == 1:
            return [float(value) for value in torch.sigmoid(logits[:, 0])]
        return [float(value) for value in torch.softmax(logits, dim=-1)[:, -1]]


def check_prm(folder: Path) -> None:
    """Refuse a folder that `PrmScorer` cannot serve, before anything is loaded.

    Raises:
        ValueError: the config cannot be read or names another architecture.
    """
    try:
        kinds = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"PRM {folder}: config.json cannot be read: {error}") from None
    if not isinstance(kinds, list) or not kinds or not str(kinds[0]).endswith("ForTokenClassification"):
        raise ValueError(
            f"PRM {folder}: architectures {kinds!r} is not a ...ForTokenClassification checkpoint"
        )
