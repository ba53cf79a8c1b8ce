"""From planned rows to the tensors of one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.training.rows import TokenRow
from kit.training.sharing import Indices, Sharing, make_sharing, places_of

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
        tokens: that go through the model, padding left out.
        sharing: where equal prompts are there once: then B = 1, and attention sees the rows by it.
    """

    input_ids: "torch.Tensor"
    position_ids: "torch.Tensor"
    segments: tuple[int, ...]
    positions: "torch.Tensor"
    targets: "torch.Tensor"
    rows: tuple[TokenRow, ...]
    tokens: int
    sharing: Sharing | None = None

    def attention_arguments(self) -> dict[str, Any]:
        """What the attention needs to keep packed rows apart: ours, and flash-attn's names for the same."""
        shared = {} if self.sharing is None else {"sharing": self.sharing}
        if not self.segments:
            return shared
        import torch

        ends = np.cumsum([0, *self.segments], dtype=np.int32)
        bounds = torch.from_numpy(ends).to(self.input_ids.device)
        longest = max(self.segments)
        return shared | {
            "segments": self.segments,
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
        }


def collate(
    rows: Sequence[TokenRow], device: "torch.device | str", *, packing: bool = True, share: bool = False
) -> MicroBatch:
    """Tensors of the rows, in their order. No rows give a forward pass of one token without any loss.

    Args:
        share: put a prompt through once for all rows that begin with it; needs an attention that
            `kit.training.attention.can_share` knows.
    """
    import torch

    if not rows:
        rows = (TokenRow(np.zeros(1, np.int32), np.zeros(1, np.uint8)),)
    places, repeats = places_of(rows) if share else ([], [])
    if repeats:
        shape = (1, 1 + max(int(place[-1]) for place in places))
        sharing = make_sharing(places, repeats, device, packing=packing)
    else:
        places, shape = _places(rows, packing=packing)
        sharing = None
    ids = np.zeros(shape[0] * shape[1], np.int64)
    positions = np.zeros_like(ids)
    predicting, targets = [], []
    for place, row in zip(places, rows, strict=True):
        ids[place] = row.ids
        positions[place] = np.arange(len(row))
        trained = np.flatnonzero(row.mask[1:])
        predicting.append(place[trained])
        targets.append(row.ids[1:][trained].astype(np.int64))

    def tensor(array: "np.ndarray[Any, Any]") -> "torch.Tensor":
        return torch.from_numpy(array).to(device, non_blocking=True)

    return MicroBatch(
        input_ids=tensor(ids.reshape(shape)),
        position_ids=tensor(positions.reshape(shape)),
        segments=tuple(len(row) for row in rows) if packing else (),
        positions=tensor(np.concatenate(predicting)),
        targets=tensor(np.concatenate(targets)),
        rows=tuple(rows),
        tokens=sum(len(row) for row in rows) if sharing is None else shape[1],
        sharing=sharing,
    )


def _places(rows: Sequence[TokenRow], *, packing: bool) -> tuple[list[Indices], tuple[int, int]]:
    """Where each row's tokens lie, each row by itself, and the shape of all."""
    width = max(len(row) for row in rows)
    starts = np.cumsum([0, *(len(row) for row in rows[:-1])]) if packing else np.arange(len(rows)) * width
    places = [start + np.arange(len(row)) for start, row in zip(starts, rows, strict=True)]
    return places, (1, sum(len(row) for row in rows)) if packing else (len(rows), width)
