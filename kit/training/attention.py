"""Block-diagonal causal attention for packed rows by torch's fused kernels, on a CPU one call a sequence.

A packed row of n sequences of length l costs n * l^2, not (n * l)^2, and no mask is ever made. Registered
with transformers as `segments`, so that any decoder that goes through its attention interface has it. It and
flash-attn know micro-batches in which prompts are there once.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from kit.training.sharing import Sharing
from kit.training.varlen import varlen_attention, varlen_fits

if TYPE_CHECKING:
    import torch

NAME = "segments"
DECODING = "decoding"
FLASH = "flash_attention_2"

Attention = Callable[..., tuple["torch.Tensor", None]]


def register() -> None:
    """Make `segments` and `decoding` known to transformers, and sharing to flash-attn; idempotent."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, segment_attention)
    AttentionInterface.register(DECODING, decode_attention)
    AttentionMaskInterface.register(DECODING, sdpa_mask)
    AttentionInterface.register(FLASH, sharing_too(flash_attention_forward))


def can_share(module: Any) -> bool:
    """Whether a wrapped model (`kit.training.model.wrap`) can put equal prompts through once."""
    return module.causal.config._attn_implementation in {NAME, FLASH}


def sharing_too(attention: Attention) -> Attention:
    """An attention of transformers' interface that sees whole rows where prompts are there once."""

    @wraps(attention)
    def attend(
        module: Any,
        query: "torch.Tensor",
        key: "torch.Tensor",
        value: "torch.Tensor",
        attention_mask: "torch.Tensor | None",
        *given: Any,
        sharing: Sharing | None = None,
        **named: Any,
    ) -> tuple["torch.Tensor", None]:
        if sharing is None:
            return attention(module, query, key, value, attention_mask, *given, **named)
        rows = (sharing.spread(states) for states in (query, key, value))
        output, _ = attention(module, *rows, attention_mask, *given, **named)
        return sharing.gather(output), None

    return attend


@sharing_too
def segment_attention(
    _module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: tuple[int, ...] = (),
    cu_seq_lens_q: "torch.Tensor | None" = None,
    max_length_q: int = 0,
    **_: Any,
) -> tuple["torch.Tensor", None]:
    """Causal attention within each segment, or within each row of a batch where there are no segments.

    Args:
        query: [B, heads, T, head size].
        key, value: [B, key-value heads, T, head size].
        segments: lengths that sum to T; needs B = 1.
        cu_seq_lens_q, max_length_q: [segments + 1] int32 where they begin and end, and the longest; for
            the kernel that takes all at once.

    Returns:
        [B, T, heads, head size], as transformers wants it.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    assert attention_mask is None, "transformers makes no mask for an attention that it does not know"
    if varlen_fits(query, dropout) and (cu_seq_lens_q is not None) == bool(segments):
        return varlen_attention(query, key, value, cu_seq_lens_q, max_length_q, scaling), None
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


def decode_attention(
    _module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple["torch.Tensor", None]:
    """Attention with a key-value cache, which is read as it lies: transformers' own copies it for each head.

    Args:
        query: [B, heads, T, head size].
        key, value: [B, key-value heads, S, head size]; S = T where nothing is cached.
        attention_mask: [B, 1, T, S] bool, True where a query may look; None looks back at everything.

    Returns:
        [B, T, heads, head size].
    """
    from torch.nn.functional import scaled_dot_product_attention

    rows, heads, length, size = query.shape
    assert attention_mask is not None or length in {1, key.shape[2]}, "a later part of a prompt has a mask"
    groups = heads // key.shape[1]
    if length == 1:  # the heads that share keys, as so many positions of one head
        query = query.reshape(rows, -1, groups, size)
    output = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        is_causal=attention_mask is None and length > 1,
        scale=scaling,
        enable_gqa=groups > 1 and length > 1,
    )
    return output.reshape(rows, heads, length, size).transpose(1, 2).contiguous(), None
