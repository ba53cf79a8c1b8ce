"""Causal attention over packed rows by one kernel of torch: FlashAttention-2's for rows of many lengths.

Time n * l^2 for n rows of length l, memory linear in tokens, one launch whatever n is; fewer key-value heads
than query heads are read as they lie. It wants CUDA from Ampere on and bfloat16 or float16. FlashAttention-2:
https://arxiv.org/abs/2307.08691.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LARGEST_HEAD = 256
OLDEST_GPU = (8, 0)
"""Compute capability of the first generation that the kernel is made for."""


def head_fits(size: int) -> bool:
    """Whether the kernel is made for heads of this size."""
    return size <= LARGEST_HEAD and size % 8 == 0


def varlen_fits(query: "torch.Tensor", dropout: float) -> bool:
    """Whether the kernel is there, and made for these [B, heads, T, head size] queries."""
    import torch

    return (
        query.is_cuda
        and query.dtype in {torch.bfloat16, torch.float16}
        and not dropout
        and head_fits(query.shape[-1])
        and torch.cuda.get_device_capability(query.device) >= OLDEST_GPU
        and _kernel() is not None
    )


def varlen_attention(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    bounds: "torch.Tensor | None",
    longest: int,
    scaling: float | None,
) -> "torch.Tensor":
    """Causal attention within each segment of one row, or within each row of a batch.

    Args:
        query: [B, heads, T, head size].
        key, value: [B, key-value heads, T, head size].
        bounds: [segments + 1] int32, where each begins and the last ends; needs B = 1. None: rows of T.
        longest: tokens of the longest segment; T without bounds.

    Returns:
        [B, T, heads, head size], contiguous.
    """
    import torch

    rows, _, length, _ = query.shape
    if bounds is None:
        bounds = torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=query.device)
        longest = length
    # The output takes the layout of the queries: contiguous, it need not be copied for the next layer.
    tokens = query.transpose(1, 2).flatten(0, 1).contiguous()
    keys, values = (states.transpose(1, 2).flatten(0, 1) for states in (key, value))
    kernel = _kernel()
    assert kernel is not None, "varlen_fits says where it is"
    output: torch.Tensor = kernel(tokens, keys, values, bounds, longest, scaling)
    _backward_in_order(output)
    return output.unflatten(0, (rows, length))


def _backward_in_order(output: "torch.Tensor") -> None:
    """Have the gradients of queries added up in a fixed order: else no run could be repeated to the bit.

    The kernel asks torch's global switch, which other operations, sampling for one, would take as a demand
    that they cannot meet: it is on during this kernel's backward pass alone.
    """
    import torch

    node = output.grad_fn
    if node is None or torch.are_deterministic_algorithms_enabled():
        return
    node.register_prehook(lambda _: torch.use_deterministic_algorithms(True))
    node.register_hook(lambda *_: torch.use_deterministic_algorithms(False))


@cache
def _kernel() -> Any:
    """The kernel for causal attention, or None in a torch that has none."""
    import inspect

    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    # Later versions want to be told what earlier ones just do.
    names = inspect.signature(varlen_attn).parameters
    more = {"enable_gqa": True} if "enable_gqa" in names else {}

    def causal(query: Any, key: Any, value: Any, bounds: Any, longest: int, scaling: float | None) -> Any:
        return varlen_attn(
            query, key, value, bounds, bounds, longest, longest,
            scale=scaling, window_size=(-1, 0), **more,
        )  # fmt: skip

    return causal
