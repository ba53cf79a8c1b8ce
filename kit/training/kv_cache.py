"""A key-value cache that decoding grows in place.

transformers' own copies all keys and values for every token, and again whenever rows leave the batch. Here a
layer writes into a buffer with room to spare, and a row that leaves is replaced by one from the end. Layers
of other kinds (sliding windows, linear attention) stay transformers'.

Time a token: its own keys and values, instead of those of all before it. Memory: up to a quarter, or 32
tokens, more than is filled.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ROOM = 32
"""Tokens that a buffer can grow by, at least, before it is copied."""


def make_cache(config: Any) -> Any:
    """An empty cache for a model of this configuration; a `transformers.DynamicCache`."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    made = DynamicCache(config=config)
    made.layers = [_layer()() if type(layer) is DynamicLayer else layer for layer in made.layers]
    return made


def drop_rows(going: "torch.Tensor") -> "torch.Tensor":
    """Which rows to go on with, [n] indices of the n rows that are going: those from the end fill the gaps.

    Args:
        going: [B] bool.
    """
    import torch

    count = int(going.sum())
    kept = torch.arange(count, device=going.device)
    kept[~going[:count]] = count + going[count:].nonzero().flatten()
    return kept


@cache
def _layer() -> Any:
    """The layer class; made on first use, since transformers is imported where it is used."""
    import torch
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types here
        """`keys` and `values` are views of the filled part of the buffers, [B, heads, T, head size]."""

        def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
            super().lazy_initialization(key_states, value_states)
            self._buffers = [_empty(states, 0) for states in (key_states, value_states)]

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            begin = self.get_seq_length()
            end = begin + key_states.shape[-2]
            for index, states in enumerate((key_states, value_states)):
                if end > self._buffers[index].shape[-2]:
                    larger = _empty(states, end + max(_ROOM, end // 4))
                    larger[:, :, :begin] = self._buffers[index][:, :, :begin]
                    self._buffers[index] = larger
                self._buffers[index][:, :, begin:end] = states
            self._show(end)
            return self.keys, self.values

        def batch_select_indices(self, indices: Any) -> None:
            if not self.get_seq_length():
                return
            count = len(indices)
            places = (indices != torch.arange(count, device=indices.device)).nonzero().flatten()
            sources = indices[places]
            rows = len(self._buffers[0])
            # In place, where no row is read after it was written.
            moves = count <= rows and bool((sources >= count).all())
            length = self.get_seq_length()
            for index, buffer in enumerate(self._buffers):
                if moves:
                    buffer[places, :, :length] = buffer[sources, :, :length]
                    self._buffers[index] = buffer[:count]
                else:
                    fresh = buffer.new_empty((count, *buffer.shape[1:]))
                    fresh[:, :, :length] = buffer[:, :, :length].index_select(0, indices)
                    self._buffers[index] = fresh
            self._show(length)

        def _show(self, length: int) -> None:
            self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)

    def _empty(states: Any, length: int) -> Any:
        return states.new_empty((*states.shape[:2], length, states.shape[-1]))

    return GrowingLayer
