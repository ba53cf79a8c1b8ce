"""Learning rates: every schedule worked out by hand, and what holds for all of them."""

import math
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.training.schedule import Schedule, lr_at

KINDS: tuple[Schedule, ...] = get_args(Schedule)


def rates(total: int, kind: Schedule, *, warmup: float = 0.0, floor: float = 0.0) -> list[float]:
    return [
        lr_at(step, total, lr=8.0, kind=kind, warmup_ratio=warmup, min_lr_ratio=floor)
        for step in range(total)
    ]


def test_constant_by_hand() -> None:
    assert rates(6, "constant", warmup=0.5, floor=0.5) == [2, 4, 6, 8, 8, 8]


def test_linear_by_hand() -> None:
    assert rates(4, "linear") == [8, 6, 4, 2]
    assert rates(5, "linear", warmup=0.2) == [4, 8, 6, 4, 2]
    assert rates(4, "linear", floor=0.5) == [8, 7, 6, 5]


def test_cosine_by_hand() -> None:
    root = math.sqrt(2)
    assert rates(4, "cosine") == pytest.approx([8, 4 + 2 * root, 4, 4 - 2 * root])
    assert rates(7, "cosine", warmup=0.4, floor=0.25) == pytest.approx(
        [2, 4, 6, 8, 2 + 3 + 1.5 * root, 5, 5 - 1.5 * root]
    )


def test_wsd_by_hand() -> None:
    # A fifth of 20 is 4: full to step 16, then a quarter of the way down each step.
    assert rates(20, "wsd", warmup=0.15) == [2, 4, 6, *[8] * 14, 6, 4, 2]
    assert rates(20, "wsd", floor=0.5) == [*[8] * 17, 7, 6, 5]
    # Warm-up leaves one step of the fifth.
    assert rates(10, "wsd", warmup=0.9) == pytest.approx([8 * (step + 1) / 10 for step in range(10)])


def test_number_of_warm_up_steps_is_rounded_up_from_the_exact_product() -> None:
    # 0.07 * 100 is 7.000000000000001 in binary.
    assert rates(100, "constant", warmup=0.07).index(8.0) == 7
    assert rates(10, "constant", warmup=0.05).index(8.0) == 1


def test_warm_up_only() -> None:
    assert rates(3, "cosine", warmup=1.0) == [2, 4, 6]
    assert rates(1, "linear") == [8]


@given(
    total=st.integers(1, 300),
    kind=st.sampled_from(KINDS),
    warmup=st.floats(0, 1),
    floor=st.floats(0, 1),
)
def test_rises_then_falls_above_the_floor(total: int, kind: Schedule, warmup: float, floor: float) -> None:
    values = rates(total, kind, warmup=warmup, floor=floor)
    assert min(values) > 0
    assert max(values) <= 8
    top = values.index(max(values))
    slack = 1e-12
    assert all(a < b for a, b in pairwise(values[: top + 1]))
    assert all(a >= b - slack for a, b in pairwise(values[top:]))
    assert all(value >= 8 * floor - slack for value in values[top:] if top < total - 1 or warmup == 0)
    assert top <= math.ceil(warmup * total)


@given(kind=st.sampled_from(KINDS), floor=st.floats(0, 1))
def test_ends_near_the_floor(kind: Schedule, floor: float) -> None:
    last = rates(1000, kind, floor=floor)[-1]
    assert last == 8 if kind == "constant" else last == pytest.approx(8 * floor, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 5}, "step is 5, but a run of 5 updates has steps 0 to 4"),
        ({"step": -1}, "step is -1"),
        ({"warmup_ratio": 1.1}, "warmup_ratio is 1.1"),
        ({"min_lr_ratio": -0.1}, "min_lr_ratio is -0.1"),
    ],
)
def test_refusals(arguments: dict[str, float], message: str) -> None:
    settings = {"step": 0, "total": 5, "lr": 1.0, **arguments}
    with pytest.raises(ValueError, match=message):
        lr_at(**settings)  # type: ignore[arg-type]
