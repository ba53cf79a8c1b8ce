"""From planned rows to the tensors of one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.training.rows import TokenRow

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank.

    Args:
        input_ids: [B, T]. Packed: B = 1 and the rows lie end to end. Padded: one row each, padded right.
        position_ids: [B, T], from 0 in every row.
        segments: lengths of the packed rows; empty where padded (right padding needs no mask under causal
            attention: no real token sees a later one).
        positions: [N] indices into the flattened [B * T] hidden states that predict a trained token.
        targets: [N] the tokens that they predict.
        rows: the rows, in the order in which their tokens follow each other in `positions`.
        tokens: real tokens, padding left out.
    """

    input_ids: "torch.Tensor"
    position_ids: "torch.Tensor"
    segments: tuple[int, ...]
    positions: "torch.Tensor"
    targets: "torch.Tensor"
    rows: tuple[TokenRow, ...]
    tokens: int

    def attention_arguments(self) -> dict[str, Any]:
        """What the attention needs to keep packed rows apart: ours, and flash-attn's names for the same."""
        if not self.segments:
            return {}
        import torch

        ends = np.cumsum([0, *self.segments], dtype=np.int32)
        bounds = torch.from_numpy(ends).to(self.input_ids.device)
        longest = max(self.segments)
        return {
            "segments": self.segments,
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
        }


def collate(rows: Sequence[TokenRow], device: "torch.device | str", *, packing: bool = True) -> MicroBatch:
    """Tensors of the rows, in their order. No rows give a forward pass of one token without any loss."""
    import torch

    if not rows:
        rows = (TokenRow(np.zeros(1, np.int32), np.zeros(1, np.uint8)),)
    width = max(len(row) for row in rows)
    starts = np.cumsum([0, *(len(row) for row in rows[:-1])]) if packing else np.arange(len(rows)) * width
    size = sum(len(row) for row in rows) if packing else len(rows) * width
    ids = np.zeros(size, np.int64)
    positions = np.zeros(size, np.int64)
    predicting, targets = [], []
    for start, row in zip(starts, rows, strict=True):
        ids[start : start + len(row)] = row.ids
        positions[start : start + len(row)] = np.arange(len(row))
        trained = np.flatnonzero(row.mask[1:])
        predicting.append(start + trained)
        targets.append(row.ids[1:][trained].astype(np.int64))
    shape = (1, size) if packing else (len(rows), width)

    def tensor(array: "np.ndarray[Any, Any]") -> "torch.Tensor":
        return torch.from_numpy(array).to(device, non_blocking=True)

    return MicroBatch(
        input_ids=tensor(ids.reshape(shape)),
        position_ids=tensor(positions.reshape(shape)),
        segments=tuple(len(row) for row in rows) if packing else (),
        positions=tensor(np.concatenate(predicting)),
        targets=tensor(np.concatenate(targets)),
        rows=tuple(rows),
        tokens=sum(len(row) for row in rows),
    )
