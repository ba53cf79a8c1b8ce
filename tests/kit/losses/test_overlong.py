"""Soft overlong punishment: values by hand, the paper's formula, refusals."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.losses.overlong import soft_overlong_penalty


@pytest.mark.parametrize(
    ("length", "penalty"),
    # The buffer of 20 begins at 80: 81 is 1/20 in, 90 half, 100 all.
    [(0, 0), (80, 0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1), (101, -1), (10_000, -1)],
)
def test_values_by_hand(length: int, penalty: float) -> None:
    assert soft_overlong_penalty(length, max_length=100, buffer=20) == pytest.approx(penalty, abs=1e-15)


def test_the_papers_setting() -> None:
    # 16,384 expected tokens and a buffer of 4,096.
    values = [soft_overlong_penalty(n, max_length=20_480, buffer=4096) for n in (16_384, 18_432, 20_480)]
    assert values == [0, -0.5, -1]


def test_limits_of_the_buffer() -> None:
    assert [soft_overlong_penalty(n, max_length=10, buffer=0) for n in (9, 10, 11)] == [0, 0, -1]
    assert [soft_overlong_penalty(n, max_length=10, buffer=10) for n in (0, 5, 10)] == [0, -0.5, -1]


@given(max_length=st.integers(1, 50), data=st.data())
def test_never_rises_and_has_no_jump(max_length: int, data: st.DataObject) -> None:
    buffer = data.draw(st.integers(1, max_length))
    values = [soft_overlong_penalty(n, max_length=max_length, buffer=buffer) for n in range(max_length + 5)]
    falls = [before - after for before, after in pairwise(values)]
    assert min(falls) >= 0
    assert max(falls) == pytest.approx(1 / buffer)
    assert (values[0], values[-1]) == (0, -1)


@pytest.mark.parametrize(("max_length", "buffer"), [(0, 0), (-1, 0), (10, 11), (10, -1)])
def test_refusals(max_length: int, buffer: int) -> None:
    with pytest.raises(ValueError, match=r"max_length|buffer"):
        soft_overlong_penalty(5, max_length=max_length, buffer=buffer)
