"""Distillation as an objective of the training core: where the teacher's view of each token comes from."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kit.distill.recipe import LossSection
from kit.losses.distillation import TopK, distillation_terms, mix
from kit.traces.topk import TopKReader
from kit.training.batches import MicroBatch, collate
from kit.training.head import TokenLoss
from kit.training.objective import trained_tokens
from kit.training.rows import TokenRow, TokenTable

if TYPE_CHECKING:
    import torch


class Teacher(Protocol):
    """Gives a teacher's distributions at the trained tokens of a micro-batch."""

    def look(self, micro: MicroBatch) -> Any:
        """Work done once a micro-batch, without gradient."""

    def chunk(self, looked: Any, part: slice) -> "torch.Tensor | TopK":
        """Logits [n, V] or top-k of some of the N tokens."""


class DistillObjective:
    """alpha * KD(T) * T^2 + (1 - alpha) * CE; see `kit.losses.distillation`."""

    def __init__(self, section: LossSection, teacher: Teacher | None, vocabulary: int | None) -> None:
        assert (teacher is not None) == (section.alpha > 0)
        self._section, self._teacher, self._vocabulary = section, teacher, vocabulary
        kinds = (("kd", section.alpha > 0), ("ce", section.alpha < 1))
        self.names = tuple(name for name, given in kinds if given)

    def divisor(self, rows: Sequence[TokenRow]) -> float:
        """The mean over trained tokens."""
        return trained_tokens(rows)

    def token_loss(self, micro: MicroBatch) -> TokenLoss:
        """See `Objective`. `kd` is told without its factors alpha and T^2."""
        section, teacher = self._section, self._teacher
        looked = teacher.look(micro) if teacher is not None else None

        def loss(logits: "torch.Tensor", part: slice) -> tuple["torch.Tensor", dict[str, "torch.Tensor"]]:
            terms = distillation_terms(
                logits,
                micro.targets[part],
                teacher.chunk(looked, part) if teacher is not None else None,
                alpha=section.alpha,
                temperature=section.temperature,
                kind=section.divergence,
                beta=section.beta,
                vocab=self._vocabulary,
            )
            values = {"kd": terms.divergence, "ce": terms.cross_entropy}
            told = {name: value for name, value in values.items() if value is not None}
            return mix(terms, alpha=section.alpha, temperature=section.temperature), told

        return loss


class OnlineTeacher:
    """A second model, run on the same completions after its own prompt.

    Args:
        module: the wrapped teacher (or the engine that partitions it), in evaluation mode.
        head: [V, H] its head's weight, whole on every rank: no gather a chunk.
        prompts: its own prompts by `TokenRow.source`; None where they are the student's.
        ends: token ids that end a turn for the student and for the teacher. Their logits change places
            where they differ, so that "the end" means the same to both.
    """

    def __init__(
        self,
        module: Any,
        head: "torch.Tensor",
        prompts: TokenTable | None,
        ends: tuple[int, int],
        *,
        packing: bool,
    ) -> None:
        self._module, self._head, self._prompts = module, head, prompts
        self._ends, self._packing = ends, packing

    def look(self, micro: MicroBatch) -> "torch.Tensor":
        """[N, H] hidden states."""
        import torch

        with torch.no_grad():
            if self._prompts is not None and micro.targets.numel():
                rows = [_after(self._prompts[row.source].ids, row) for row in micro.rows]
                micro = collate(rows, micro.input_ids.device, packing=self._packing)
            hidden: torch.Tensor = self._module(micro)
        return hidden

    def chunk(self, looked: "torch.Tensor", part: slice) -> "torch.Tensor":
        """Logits of the chunk."""
        import torch

        with torch.no_grad():
            logits = looked[part] @ self._head.t()
            ours, theirs = self._ends
            if ours != theirs:
                logits[:, [ours, theirs]] = logits[:, [theirs, ours]]
        return logits


def _after(prompt: "np.ndarray[Any, Any]", row: TokenRow) -> TokenRow:
    """The trained part of a row behind another prompt."""
    begin = int(np.argmax(row.mask))
    mask = np.concatenate([np.zeros(len(prompt), np.uint8), row.mask[begin:]])
    return TokenRow(np.concatenate([prompt, row.ids[begin:]]), mask, row.source)


class CachedTeacher:
    """Top-k log-probabilities that `kit.traces` kept beside the traces.

    Args:
        folder: that the files are named relative to.
        places: file and row of each record, by `TokenRow.source`.

    Raises:
        ValueError: a file is gone or damaged since the tables were made, or has not this temperature.
    """

    def __init__(self, folder: Path, places: Sequence[tuple[str, int]], temperature: float) -> None:
        self._places, self._temperature = places, temperature
        names = sorted({name for name, _ in places})
        self._readers = {name: TopKReader(folder / name) for name in names}
        for name, row in places:
            self._readers[name].length(row)
        for reader in self._readers.values():
            reader.row(0, temperature)

    def look(self, micro: MicroBatch) -> TopK:
        """All tokens' top-k: 12 k + 4 bytes a token."""
        import torch

        ids, logprobs, tails = [], [], []
        for row in micro.rows:
            trained = int(row.mask.sum())
            if not trained:
                continue
            name, index = self._places[row.source]
            cached = self._readers[name].row(index, self._temperature)
            assert len(cached.ids) >= trained, "lengths are compared when the data is loaded"
            ids.append(cached.ids[:trained])
            logprobs.append(cached.logprobs[:trained])
            tails.append(cached.tail_logprob[:trained])
        device = micro.input_ids.device
        if not ids:
            empty = torch.zeros(0, 1, device=device)
            return TopK(empty.long(), empty, empty[:, 0])
        arrays = (np.concatenate(parts) for parts in (ids, logprobs, tails))
        return TopK(*(torch.from_numpy(array).to(device) for array in arrays))

    def chunk(self, looked: TopK, part: slice) -> TopK:
        """The chunk's rows."""
        return TopK(*(tensor[part] for tensor in looked))
