"""Which schemes there are, where they can be made, and in groups of how many weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.package.quantize.schemes import GROUP_SIZES, SCHEMES, find_scheme, group_size


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "awq"])
@pytest.mark.parametrize("gpu", [True, False])
def test_all_but_awq_are_made_anywhere(name: str, gpu: bool) -> None:
    scheme = find_scheme(name, gpu=gpu)
    assert scheme is not None
    assert scheme.calibrated == (name in ("int8", "w4a16"))


def test_none_is_no_scheme() -> None:
    assert find_scheme("none", gpu=False) is None


def test_awq_wants_a_gpu_and_says_what_else_there_is() -> None:
    with pytest.raises(ValueError, match=r"awq needs a GPU.*choose w4a16"):
        find_scheme("awq", gpu=False)
    awq = find_scheme("awq", gpu=True)
    assert awq is not None
    assert awq.calibrated


@pytest.mark.parametrize("name", ["gguf", "GGUF", "gguf-q4_k_m"])
def test_gguf_is_refused_with_the_reason_and_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match=r"served by vLLM.*choose fp8"):
        find_scheme(name, gpu=True)


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'int9' is none of none, fp8, int8"):
        find_scheme("int9", gpu=False)


@given(st.lists(st.integers(1, 64).map(lambda count: 32 * count), min_size=1))
def test_a_group_divides_every_layer_and_none_larger_does(widths: list[int]) -> None:
    size = group_size(SCHEMES["w4a16"], widths)
    assert size in GROUP_SIZES
    assert all(width % size == 0 for width in widths)
    larger = [other for other in GROUP_SIZES if other > size]
    assert all(any(width % other for width in widths) for other in larger)


def test_without_groups_any_width_will_do() -> None:
    assert group_size(SCHEMES["fp8"], [3, 5]) is None


def test_smollm_takes_groups_of_64() -> None:
    # Seen: llm-compressor refuses 128, since 576 is no multiple of it.
    assert group_size(SCHEMES["w4a16"], [576, 1536]) == 64


def test_an_odd_width_is_named() -> None:
    with pytest.raises(ValueError, match="layers of 48 inputs; choose fp8 or int8"):
        group_size(SCHEMES["w4a16"], [64, 48])
