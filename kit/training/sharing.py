"""One copy of a prompt for all of its completions in a micro-batch.

The completions of a group follow the same prompt, and what a decoder makes of a token depends on those before
it alone: the prompt's tokens go through projections and feed-forward layers once. Attention sees whole rows
again (queries, keys and values are copied into place, the fused kernels stay as they are), and of its output
the first copy of each token is kept. Exact: each row's numbers, and the sum of its gradients, are those of
the row by itself. Time of attention, and its memory, are those of the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kit.training.rows import TokenRow

if TYPE_CHECKING:
    import torch

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sharing:
    """Where the tokens of rows lie among T tokens without repeated prompts.

    Args:
        take: [P] the token at each of the rows' P places; any where a place is padding.
        keep: [T] the place of each token's first copy.
        repeats: (place, token, count) of each further copy of a prompt.
        shape: (B, L) with B * L = P: (1, P) where rows lie end to end.
    """

    take: "torch.Tensor"
    keep: "torch.Tensor"
    repeats: tuple[tuple[int, int, int], ...]
    shape: tuple[int, int]

    def spread(self, states: "torch.Tensor") -> "torch.Tensor":
        """[B, heads, L, head size] in rows, of [1, heads, T, head size]."""
        heads, size = states.shape[1], states.shape[3]
        tokens = states[0].transpose(0, 1).reshape(-1, heads * size)
        rows: torch.Tensor = _spread().apply(tokens, self)
        return rows.view(*self.shape, heads, size).transpose(1, 2)

    def gather(self, states: "torch.Tensor") -> "torch.Tensor":
        """[1, T, heads, head size], of [B, L, heads, head size] in rows."""
        heads, size = states.shape[2:]
        tokens: torch.Tensor = _gather().apply(states.reshape(-1, heads * size), self)
        return tokens.view(1, -1, heads, size)


def prompt_tokens(row: TokenRow) -> int:
    """Tokens before the first one that is trained; 0 where none is."""
    return int(row.mask.argmax())


def prompts_of(rows: Sequence[TokenRow]) -> list[tuple[int, int]]:
    """(number, tokens) of each row's prompt; equal prompts have the same number."""
    numbers: dict[bytes, int] = {}
    found = []
    for row in rows:
        count = prompt_tokens(row)
        number = numbers.setdefault(row.ids[:count].tobytes(), len(numbers))
        found.append((number, count))
    return found


def tokens_without_repeats(lengths: Sequence[int], prompts: Sequence[tuple[int, int]]) -> int:
    """Tokens of rows whose equal prompts are there once."""
    once = dict(prompts)
    return sum(lengths) - sum(count for _, count in prompts) + sum(once.values())


def places_of(rows: Sequence[TokenRow]) -> tuple[list[Indices], list[tuple[int, int, int]]]:
    """Where each row's tokens lie when equal prompts are there once.

    Returns:
        For each row [length] indices among all tokens; and (row, first token, count) of repeated prompts.
    """
    begins: dict[int, int] = {}
    places: list[Indices] = []
    repeats = []
    end = 0
    for index, (row, (number, count)) in enumerate(zip(rows, prompts_of(rows), strict=True)):
        first = begins.get(number)
        if first is None or not count:
            begins[number] = end
            places.append(np.arange(end, end + len(row)))
            end += len(row)
            continue
        own = len(row) - count
        places.append(np.concatenate([np.arange(first, first + count), np.arange(end, end + own)]))
        repeats.append((index, first, count))
        end += own
    return places, repeats


def make_sharing(
    places: Sequence[Indices],
    repeats: Sequence[tuple[int, int, int]],
    device: "torch.device | str",
    *,
    packing: bool,
) -> Sharing:
    """For attention over rows end to end, or padded right to the longest.

    Args:
        places, repeats: see `places_of`.
    """
    import torch

    lengths = [len(place) for place in places]
    width = max(lengths)
    starts = np.cumsum([0, *lengths[:-1]]) if packing else np.arange(len(places)) * width
    size = sum(lengths) if packing else len(places) * width
    take = np.zeros(size, np.int64)
    keep = np.zeros(max(int(place.max()) for place in places) + 1, np.int64)
    for start, place in reversed(list(zip(starts, places, strict=True))):  # the first copy comes last
        take[start : start + len(place)] = place
        keep[place] = np.arange(start, start + len(place))
    return Sharing(
        take=torch.from_numpy(take).to(device),
        keep=torch.from_numpy(keep).to(device),
        repeats=tuple((int(starts[row]), first, count) for row, first, count in repeats),
        shape=(1, size) if packing else (len(places), width),
    )


@cache
def _spread() -> Any:
    """The autograd function of `Sharing.spread`; made on first use, since torch is imported where it is used.

    torch's own backward of an index adds up token by token, in no fixed order on CUDA.
    """
    import torch

    class Spread(torch.autograd.Function):  # type: ignore[misc]  # torch's class is untyped
        @staticmethod
        def forward(ctx: Any, tokens: Any, sharing: Sharing) -> Any:
            ctx.sharing = sharing
            return tokens.index_select(0, sharing.take)

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, grad: Any) -> Any:
            summed = grad.index_select(0, ctx.sharing.keep)
            for place, token, count in ctx.sharing.repeats:
                summed[token : token + count] += grad[place : place + count]
            return summed, None

    return Spread


@cache
def _gather() -> Any:
    """The autograd function of `Sharing.gather`."""
    import torch

    class Gather(torch.autograd.Function):  # type: ignore[misc]  # torch's class is untyped
        @staticmethod
        def forward(ctx: Any, rows: Any, sharing: Sharing) -> Any:
            ctx.keep, ctx.places = sharing.keep, len(rows)
            return rows.index_select(0, sharing.keep)

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, grad: Any) -> Any:
            rows = grad.new_zeros((ctx.places, grad.shape[1]))
            return rows.index_copy_(0, ctx.keep, grad), None

    return Gather
