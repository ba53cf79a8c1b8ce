"""The weights' checksum: invariances, and what it finds."""

import struct
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kit.grpo.checksum import Checksum, checksum, combined, unordered

FORMATS = {"float32": "I", "bfloat16": "H"}
dtypes = st.sampled_from(sorted(FORMATS))


def tensor(bits: list[int], dtype: str) -> Any:
    """A float tensor with these bit patterns."""
    import torch

    data = bytearray(struct.pack(f"<{len(bits)}{FORMATS[dtype]}", *bits))
    kind = getattr(torch, dtype)
    return torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)


@st.composite
def patterns(draw: st.DrawFn, at_least: int = 0) -> tuple[str, list[int]]:
    """A type, and bit patterns of it: every one, NaNs and negative zero included."""
    dtype = draw(dtypes)
    highest = 2 ** (8 * struct.calcsize(FORMATS[dtype])) - 1
    return dtype, draw(st.lists(st.integers(0, highest), min_size=at_least, max_size=40))


def test_by_hand() -> None:
    import torch

    # In float32, 1.0 is 0x3f800000, -0.0 0x80000000 and 2.0 0x40000000; in bfloat16 the upper half of it.
    assert checksum(torch.tensor([1.0, -0.0, 2.0])) == Checksum(
        3, 0x3F800000 + 0x80000000 + 0x40000000, 0x3F800000 + 2 * 0x80000000 + 3 * 0x40000000
    )
    assert checksum(torch.tensor([1.0, -0.0, 2.0], dtype=torch.bfloat16)) == Checksum(
        3, 0x3F80 + 0x8000 + 0x4000, 0x3F80 + 2 * 0x8000 + 3 * 0x4000
    )
    # -1.0 in float64 is 0xbff0000000000000: three of them are beyond 2^64.
    assert checksum(-torch.ones(3, dtype=torch.float64)) == Checksum(
        3, 3 * 0xBFF0000000000000 % 2**64, 6 * 0xBFF0000000000000 % 2**64
    )


@given(patterns())
def test_equals_the_sums_of_its_definition(drawn: tuple[str, list[int]]) -> None:
    dtype, bits = drawn
    expected = Checksum(len(bits), sum(bits), sum(i * b for i, b in enumerate(bits, 1)))
    assert checksum(tensor(bits, dtype)) == expected
    assert Checksum.parse(str(expected)) == expected


@given(patterns(at_least=1), st.data())
def test_any_cut_gives_the_same(drawn: tuple[str, list[int]], data: st.DataObject) -> None:
    dtype, bits = drawn
    cuts = sorted(data.draw(st.lists(st.integers(0, len(bits)), max_size=4)))
    parts = [tensor(bits[a:b], dtype) for a, b in zip([0, *cuts], [*cuts, len(bits)], strict=True)]
    assert sum(map(checksum, parts), Checksum()) == checksum(tensor(bits, dtype))
    named = {str(index): checksum(part) for index, part in enumerate(parts)}
    assert unordered(named) == unordered({"whole": checksum(tensor(bits, dtype))})


@given(patterns(at_least=1), st.data())
def test_one_flipped_bit_is_found(drawn: tuple[str, list[int]], data: st.DataObject) -> None:
    dtype, bits = drawn
    place = data.draw(st.integers(0, len(bits) - 1))
    changed = list(bits)
    changed[place] ^= 1 << data.draw(st.integers(0, 8 * struct.calcsize(FORMATS[dtype]) - 1))
    one, other = checksum(tensor(bits, dtype)), checksum(tensor(changed, dtype))
    assert one.total != other.total
    assert combined({"w": one}) != combined({"w": other})
    assert unordered({"w": one}) != unordered({"w": other})


@given(patterns(at_least=2), st.data())
def test_two_values_that_change_places_are_found(drawn: tuple[str, list[int]], data: st.DataObject) -> None:
    dtype, bits = drawn
    places = st.integers(0, len(bits) - 1)
    a, b = data.draw(places), data.draw(places)
    assume(bits[a] != bits[b])
    changed = list(bits)
    changed[a], changed[b] = bits[b], bits[a]
    one, other = checksum(tensor(bits, dtype)), checksum(tensor(changed, dtype))
    assert one.total == other.total
    assert one.moment != other.moment


@given(st.dictionaries(st.text(max_size=3), patterns(), min_size=2, max_size=5), st.randoms())
def test_the_order_of_tensors_does_not_matter_and_their_names_do(
    weights: dict[str, tuple[str, list[int]]], random: Any
) -> None:
    parts = {name: checksum(tensor(bits, dtype)) for name, (dtype, bits) in weights.items()}
    names = list(parts)
    random.shuffle(names)
    assert combined({name: parts[name] for name in names}) == combined(parts)
    first, second = names[:2]
    assume(parts[first] != parts[second])
    swapped = parts | {first: parts[second], second: parts[first]}
    assert combined(swapped) != combined(parts)
    assert unordered(swapped) == unordered(parts)


def test_tensors_longer_than_a_chunk_and_not_contiguous_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    matrix = torch.randn(37, 11, generator=torch.Generator().manual_seed(0))
    whole = checksum(matrix)
    transposed = checksum(matrix.t().contiguous())
    monkeypatch.setattr("kit.grpo.checksum._CHUNK", 16)
    assert checksum(matrix) == whole
    assert checksum(matrix.t()) == transposed
    assert transposed.total == whole.total
    assert transposed.moment != whole.moment


def test_rows_of_zeros_that_pad_a_vocabulary_add_nothing_but_their_number() -> None:
    import torch

    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    plain, padded = checksum(rows), checksum(torch.cat([rows, torch.zeros(3, 4)]))
    assert (padded.total, padded.moment) == (plain.total, plain.moment)
    assert padded.elements == plain.elements + 12
