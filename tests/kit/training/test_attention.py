"""Attention within segments against plain softmax under an explicit block-diagonal mask."""

import math

import pytest

from kit.training.attention import segment_attention


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
