"""Attention within segments, and with a cache, against plain softmax under an explicit mask."""

import math

import pytest

from kit.training.attention import decode_attention, segment_attention


@pytest.mark.parametrize("segments", [(), (7,), (1, 4, 2)])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_segments_see_themselves_only(segments: tuple[int, ...], key_heads: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(3)

    def draw(heads: int) -> torch.Tensor:
        drawn = torch.randn(1, heads, 7, 8, generator=generator, dtype=torch.float64)
        return drawn.requires_grad_()

    query, key, value = draw(4), draw(key_heads), draw(key_heads)
    mask = torch.block_diag(*(torch.ones(size, size) for size in segments or (7,))).tril().bool()
    keys, values = (tensor.repeat_interleave(4 // key_heads, dim=1) for tensor in (key, value))
    scores = (query @ keys.transpose(-1, -2) / math.sqrt(8)).masked_fill(~mask, -math.inf)
    expected = (scores.softmax(-1) @ values).transpose(1, 2)
    output, _ = segment_attention(None, query, key, value, None, segments=segments)
    assert output.shape == (1, 7, 4, 8)
    assert output.is_contiguous()
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    weight = torch.randn(1, 7, 4, 8, generator=generator, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    given = torch.autograd.grad((output * weight).sum(), (query, key, value))
    torch.testing.assert_close(given, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "cached"), [(1, 0), (1, 6), (5, 0)])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [True, False])
def test_decoding_looks_back_at_what_is_cached(
    length: int, cached: int, key_heads: int, masked: bool
) -> None:
    """Against softmax under an explicit mask: causal, and without the padding on the left."""
    import torch

    generator = torch.Generator().manual_seed(3)
    whole = cached + length
    query = torch.randn(2, 4, length, 8, generator=generator, dtype=torch.float64)
    key, value = (
        torch.randn(2, key_heads, whole, 8, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    mask = torch.ones(length, whole).tril(cached).bool().expand(2, 1, -1, -1).clone()
    if masked:
        mask[1, ..., 0] = whole == 1  # a row's only token is no padding
        mask[1, 0, 0, 0] |= length > 1  # a query looks at itself at least
    keys, values = (tensor.repeat_interleave(4 // key_heads, dim=1) for tensor in (key, value))
    scores = (query @ keys.transpose(-1, -2) / math.sqrt(8)).masked_fill(~mask, -math.inf)
    expected = (scores.softmax(-1) @ values).transpose(1, 2)
    output, _ = decode_attention(None, query, key, value, mask if masked else None)
    assert output.shape == (2, length, 4, 8)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
