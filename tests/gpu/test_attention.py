"""`segments` on CUDA: against softmax in float64, and what it costs."""

import math
from typing import Any

import numpy as np
import pytest

from kit.training.attention import segment_attention
from kit.training.rows import TokenRow
from kit.training.sharing import make_sharing, places_of
from kit.training.varlen import varlen_attention, varlen_fits

pytestmark = pytest.mark.slow

SEVERAL = (1, 300, 77, 1, 130)


def draw(shape: tuple[int, ...], seed: int, dtype: str = "float64") -> Any:
    import torch

    generator = torch.Generator("cuda").manual_seed(seed)
    drawn = torch.randn(shape, generator=generator, device="cuda", dtype=torch.float32)
    return drawn.to(getattr(torch, dtype)).requires_grad_()


def states(rows: int, heads: tuple[int, int], length: int, size: int, dtype: str) -> list[Any]:
    """Queries, keys and values."""
    return [
        draw((rows, many, length, size), seed, dtype) for seed, many in enumerate((heads[0], *[heads[1]] * 2))
    ]


def bounds_of(segments: tuple[int, ...]) -> dict[str, Any]:
    """What a micro-batch gives the attention for packed rows."""
    import torch

    if not segments:
        return {}
    ends = torch.tensor(np.cumsum([0, *segments]), dtype=torch.int32, device="cuda")
    return {"segments": segments, "cu_seq_lens_q": ends, "max_length_q": max(segments)}


def exact(query: Any, key: Any, value: Any, segments: tuple[int, ...], scaling: float) -> Any:
    """[B, T, heads, head size] by softmax under a mask."""
    import torch

    parts = segments or (query.shape[2],)
    mask = torch.block_diag(*(torch.ones(size, size, device=query.device) for size in parts)).tril().bool()
    groups = query.shape[1] // key.shape[1]
    keys, values = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = (query @ keys.transpose(-1, -2) * scaling).masked_fill(~mask, -math.inf)
    return (scores.softmax(-1) @ values).transpose(1, 2)


def gradients(output: Any, given: list[Any]) -> list[Any]:
    import torch

    weight = draw(tuple(output.shape), 7).detach().to(output.dtype)
    return list(torch.autograd.grad((output * weight).sum(), given))


def assert_near(found: Any, expected: Any, error: float) -> None:
    """By norms: single elements of short floats are off by more."""
    assert found.shape == expected.shape
    found, expected = found.detach().double(), expected.detach()
    assert float((found - expected).norm()) < error * float(expected.norm())


@pytest.mark.parametrize("segments", [(), (509,), SEVERAL], ids=["plain", "one", "several"])
@pytest.mark.parametrize("heads", [(8, 8), (8, 2), (7, 1)])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *((dtype, size) for dtype in ("bfloat16", "float16") for size in (20, 64, 128, 256)),
        ("float32", 64),
    ],
)
def test_softmax_in_float64(dtype: str, size: int, heads: tuple[int, int], segments: tuple[int, ...]) -> None:
    import torch

    given = states(1 if segments else 2, heads, sum(SEVERAL), size, dtype)
    # Heads of 20 are not made for the kernel, nor is float32: both go through SDPA.
    assert varlen_fits(given[0], 0.0) == (dtype != "float32" and size != 20)
    output, _ = segment_attention(None, *given, None, scaling=0.1, **bounds_of(segments))
    assert output.dtype == getattr(torch, dtype)
    assert output.is_contiguous()
    wide = [tensor.detach().double().requires_grad_() for tensor in given]
    expected = exact(wide[0], wide[1], wide[2], segments, 0.1)
    assert_near(output, expected, 1e-2)
    for found, wanted in zip(gradients(output, given), gradients(expected, wide), strict=True):
        assert_near(found, wanted, 1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_packed_rows_are_the_rows_alone(dtype: str) -> None:
    import torch

    given = states(1, (8, 2), sum(SEVERAL), 64, dtype)
    together, _ = segment_attention(None, *given, None, **bounds_of(SEVERAL))
    begin = 0
    for size in SEVERAL:
        part = [tensor[:, :, begin : begin + size] for tensor in given]
        alone, _ = segment_attention(None, *part, None)
        assert_near(together[:, begin : begin + size], alone.double(), 1e-3)
        begin += size
    # What stands in the second row reaches no other, not in one bit.
    others = [tensor.detach().clone() for tensor in given]
    for tensor in others:
        tensor[:, :, 1:301] *= -2
    changed, _ = segment_attention(None, *others, None, **bounds_of(SEVERAL))
    assert torch.equal(changed[:, :1], together[:, :1])
    assert torch.equal(changed[:, 301:], together[:, 301:])
    assert not torch.equal(changed[:, 1:301], together[:, 1:301])


@pytest.mark.parametrize("packing", [True, False])
def test_prompts_that_are_there_once(packing: bool) -> None:
    prompt = np.arange(90, dtype=np.int32)
    rows = []
    for number, own in enumerate((40, 1, 120, 7)):
        ids = np.concatenate([prompt, np.full(own, 100 + number, np.int32)])
        rows.append(TokenRow(ids, (np.arange(len(ids)) >= 90).astype(np.uint8), number))
    places, repeats = places_of(rows)
    sharing = make_sharing(places, repeats, "cuda", packing=packing)
    segments = tuple(len(row) for row in rows) if packing else ()
    given = states(1, (8, 2), 90 + 168, 64, "bfloat16")
    output, _ = segment_attention(None, *given, None, sharing=sharing, **bounds_of(segments))
    wide = [tensor.detach().double().requires_grad_() for tensor in given]
    spread = [sharing.spread(tensor) for tensor in wide]
    expected = sharing.gather(exact(spread[0], spread[1], spread[2], segments, 64**-0.5))
    assert_near(output, expected, 1e-2)
    for found, wanted in zip(gradients(output, given), gradients(expected, wide), strict=True):
        assert_near(found, wanted, 1e-2)


def test_gradients_are_the_same_each_time() -> None:
    """Rows of many blocks of keys, whose shares of a query's gradient could come in any order."""
    import torch

    given = states(1, (8, 2), 4096, 128, "bfloat16")

    def once() -> list[Any]:
        output, _ = segment_attention(None, *given, None, **bounds_of((3000, 1096)))
        return gradients(output, given)

    first = once()
    for _ in range(5):
        for found, expected in zip(once(), first, strict=True):
            assert torch.equal(found, expected)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("segments", [(16384,), (1000,) * 16 + (384,)], ids=["one", "several"])
def test_memory_has_no_square(segments: tuple[int, ...]) -> None:
    import torch

    given = states(1, (8, 2), 16384, 64, "bfloat16")
    weight = draw((1, 16384, 8, 64), 7).detach().to(torch.bfloat16)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output, _ = segment_attention(None, *given, None, **bounds_of(segments))
    forward = torch.cuda.max_memory_allocated() - before
    output.backward(weight)
    backward = torch.cuda.max_memory_allocated() - before
    # One head's square of scores in bfloat16 is 512 MiB, a mask 256 MiB.
    assert forward < 64 * 2**20
    # The queries' gradients are summed in parts: 4 B x head size x (multiprocessors + heads) a token.
    many = torch.cuda.get_device_properties(0).multi_processor_count
    assert backward < (many + 8) * 64 * 4 * 17000 + 128 * 2**20


def test_rows_of_a_batch_need_no_bounds() -> None:
    query, key, value = states(3, (4, 4), 33, 64, "float16")
    output = varlen_attention(query, key, value, None, 0, None)
    assert_near(output, exact(query.double(), key.double(), value.double(), (), 0.125), 1e-2)
