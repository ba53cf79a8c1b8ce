"""Block-diagonal causal attention for packed rows by torch's fused kernel, one call a sequence.

A packed row of n sequences of length l costs n * l^2, not (n * l)^2, and no mask is ever made. Registered
with transformers as `segments`, so that any decoder that goes through its attention interface has it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "segments"


def register() -> None:
    """Make `attn_implementation="segments"` known to transformers; idempotent."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, segment_attention)


def segment_attention(
    _module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: tuple[int, ...] = (),
    **_: Any,
) -> tuple["torch.Tensor", None]:
    """Causal attention within each segment, or within each row of a batch where there are no segments.

    Args:
        query: [B, heads, T, head size].
        key, value: [B, key-value heads, T, head size].
        segments: lengths that sum to T; needs B = 1.

    Returns:
        [B, T, heads, head size], as transformers wants it.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    assert attention_mask is None, "transformers makes no mask for an attention that it does not know"
    groups = query.shape[1] // key.shape[1]
    # The CPU's fused kernel takes fewer key heads than heads. Not all of CUDA's do, and torch would fall back
    # to one that is quadratic in memory.
    shared = groups > 1 and query.device.type == "cpu"
    if groups > 1 and not shared:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)

    def attend(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor") -> "torch.Tensor":
        return scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shared
        ).transpose(1, 2)

    if len(segments) <= 1:
        return attend(query, key, value).contiguous(), None
    assert sum(segments) == query.shape[2], "segments cover the row"
    parts = zip(*(tensor.split(segments, dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat([attend(*part) for part in parts], dim=1), None
