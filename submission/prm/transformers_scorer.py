"""Step scores by transformers: a problem's candidates together, what they share put through the model once.

The sequences of all candidates become one tree of tokens. It passes the model in chunks, depth first, with
tree attention; keys and values of tokens whose subtree is done are dropped on the way, so that memory grows
with a chunk and the longest sequence, not with the number of candidates.
"""

import asyncio
import math
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submission.machine import give_gpu_back
from submission.prm.heads import PrmConfig
from submission.prm.layout import Layout, Long
from submission.prm.model import PrmModel, load_model, may_share
from submission.prm.scorer import CancelledError, CheckpointScorer, log_odds
from submission.prm.tree import Tree, grow

if TYPE_CHECKING:
    import torch

CHUNK_CPU, CHUNK_GPU = 256, 2_048
"""Tokens of a tree that pass the model together."""
LOGIT_ROWS = 256
"""Rows of a whole vocabulary's logits that live at once."""


class TransformersScorer(CheckpointScorer):
    """A process reward model run by transformers; see `Scorer` for the methods.

    Args:
        folder: local files: config, safetensors, tokenizer with a chat template, `prm.json` if need be.
        long: what becomes of solutions beyond the context.
        shared: False puts every candidate through the model by itself; the scores are the same.
        chunk: tokens that pass the model together; None goes by the device.
    """

    def __init__(
        self, folder: Path, *, long: Long = "windows", shared: bool = True, chunk: int | None = None
    ) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk {chunk} must be at least 1 token")
        super().__init__(folder, long)
        self._shared = shared
        self._chunk = chunk
        self._model: PrmModel | None = None

    @property
    def shares(self) -> bool:
        """Whether candidates go through the model together, which not every architecture allows."""
        return self._shared

    async def close(self) -> None:
        """Let go of the weights."""
        if self._model is not None:
            self._model = None
            await asyncio.to_thread(give_gpu_back)

    def _load(self, form: PrmConfig) -> None:
        model = self._model = load_model(self.folder, form)
        if self._chunk is None:
            self._chunk = CHUNK_GPU if model.device.type == "cuda" else CHUNK_CPU
        if self._shared:
            self._shared = may_share(model, self._together)

    def _log_odds(
        self, layouts: Sequence[Layout], form: PrmConfig, stop: threading.Event
    ) -> list[list[float]]:
        import torch

        with torch.inference_mode():
            if not self._shared:
                return [self._read([layout], form, stop)[0] for layout in layouts]
            found = self._read(layouts, form, stop)
            for number, layout in enumerate(layouts):
                # A masked key still multiplies its value by zero, and zero times infinity is no number: what
                # overflows in one candidate would take the others' scores with it.
                if not all(map(math.isfinite, found[number])):
                    found[number] = self._read([layout], form, stop)[0]
        return found

    def _read(self, layouts: Sequence[Layout], form: PrmConfig, stop: threading.Event) -> list[list[float]]:
        """Log-odds of the scored steps of sequences that go through the model together."""
        assert self._model is not None, "start() first"
        tree = grow([layout.ids for layout in layouts])
        passes = self._passes(tree, stop)
        if form.head == "logprob":
            return _sums_of_logprobs(passes, self._model.head, tree, layouts)
        return _label_odds(passes, self._model.head, form.positive_label, tree, layouts)

    def _together(self, sequences: list[list[int]]) -> "list[torch.Tensor]":
        """Last hidden states [tokens, hidden] of each sequence, put through the model as a tree."""
        import torch

        tree = grow(sequences)
        with torch.inference_mode():
            hidden = torch.cat([part for _, part in self._passes(tree, threading.Event())])
        return [hidden[places] for places in tree.places]

    def _passes(self, tree: Tree, stop: threading.Event) -> "Iterator[tuple[int, torch.Tensor]]":
        """The tree through the model, chunk by chunk: first index, and hidden states [tokens, hidden]."""
        model, chunk = self._model, self._chunk
        assert model is not None and chunk is not None, "start() first"
        if len(tree.places) == 1:
            if stop.is_set():
                raise CancelledError("the scores are not wanted any more")
            yield 0, _alone(model, tree.ids)
            return
        yield from _chunks(model, tree, chunk, stop)


def _alone(model: PrmModel, ids: Sequence[int]) -> "torch.Tensor":
    """One sequence the ordinary way."""
    import torch

    inputs = torch.tensor([list(ids)], device=model.device)
    hidden: torch.Tensor = model.base(input_ids=inputs, use_cache=False).last_hidden_state[0]
    return hidden


def _chunks(
    model: PrmModel, tree: Tree, chunk: int, stop: threading.Event
) -> "Iterator[tuple[int, torch.Tensor]]":
    """Tree attention over what is in the chunk and what the cache keeps of earlier ones."""
    import torch
    from transformers import DynamicCache

    count = len(tree.ids)
    ids = torch.tensor(tree.ids, device=model.device)
    depths = torch.tensor(tree.depths, device=model.device)
    ends = torch.tensor(tree.ends, device=model.device)
    cached = torch.empty(0, dtype=torch.long, device=model.device)
    cache: Any = DynamicCache(config=model.base.config) if count > chunk else None
    for begin in range(0, count, chunk):
        if stop.is_set():
            raise CancelledError("the scores are not wanted any more")
        rows = torch.arange(begin, min(begin + chunk, count), device=model.device)
        columns = torch.cat([cached, rows])
        # Depth-first: a token sees those before it whose subtree it is in.
        mask = (columns <= rows[:, None]) & (rows[:, None] < ends[columns])
        output = model.base(
            input_ids=ids[rows][None],
            attention_mask=mask[None, None],
            position_ids=depths[rows][None],
            past_key_values=cache,
            use_cache=cache is not None,
        )
        yield begin, output.last_hidden_state[0]
        if cache is None:
            return
        keep = (ends[columns] > rows[-1] + 1).nonzero()[:, 0]
        cached = columns[keep]
        if len(keep) < len(columns):
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[:, :, keep], layer.values[:, :, keep]


def _label_odds(
    passes: "Iterable[tuple[int, torch.Tensor]]",
    head: Any,
    positive: int,
    tree: Tree,
    layouts: Sequence[Layout],
) -> list[list[float]]:
    """Log-odds of the positive label at the steps' ends, each place of the tree read once."""
    import torch

    wanted = [
        [places[end] for end in layout.ends] for places, layout in zip(tree.places, layouts, strict=True)
    ]
    left = sorted({place for row in wanted for place in row})
    odds: dict[int, float] = {}
    for begin, hidden in passes:
        part = left[bisect_left(left, begin) : bisect_left(left, begin + len(hidden))]
        if part:
            rows = torch.tensor(part, device=hidden.device) - begin
            logits = head(hidden[rows]).double().tolist()
            odds.update((place, log_odds(row, positive)) for place, row in zip(part, logits, strict=True))
    return [[odds[place] for place in row] for row in wanted]


def _sums_of_logprobs(
    passes: "Iterable[tuple[int, torch.Tensor]]", head: Any, tree: Tree, layouts: Sequence[Layout]
) -> list[list[float]]:
    """Sum of the log-probabilities of each step's own tokens, each token of the tree read once."""
    import torch

    wanted = {
        place
        for places, layout in zip(tree.places, layouts, strict=True)
        for begin, end in layout.spans
        for place in places[begin:end]
    }
    # A token's probability is read where its parent's hidden state is.
    left = sorted((tree.parents[place], place) for place in wanted)
    logprobs: dict[int, float] = {}
    for begin, hidden in passes:
        stop = bisect_left(left, (begin + len(hidden), -1))
        for first in range(bisect_left(left, (begin, -1)), stop, LOGIT_ROWS):
            part = left[first : min(first + LOGIT_ROWS, stop)]
            rows = torch.tensor([parent for parent, _ in part], device=hidden.device) - begin
            tokens = torch.tensor([tree.ids[place] for _, place in part], device=hidden.device)
            logits = head(hidden[rows]).float()
            taken = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
            logprobs.update((place, value) for (_, place), value in zip(part, taken.tolist(), strict=True))
    return [
        [math.fsum(logprobs[place] for place in places[begin:end]) for begin, end in layout.spans]
        for places, layout in zip(tree.places, layouts, strict=True)
    ]
