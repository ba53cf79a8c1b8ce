"""Steps' scores as one number."""

import math

import pytest

from submission.prm.aggregate import Aggregate, aggregate


@pytest.mark.parametrize(
    ("how", "expected"), [("min", 0.2), ("mean", 0.5), ("last", 0.4), ("product", 0.072)]
)
def test_values_by_hand(how: Aggregate, expected: float) -> None:
    assert aggregate([0.9, 0.2, 0.4], how) == pytest.approx(expected)


@pytest.mark.parametrize("how", ["min", "mean", "last", "product"])
@pytest.mark.parametrize("scores", [[], [math.nan, 0.5], [0.5, math.nan], [0.1, math.inf, 0.5]])
def test_what_is_not_finite_gives_no_number(how: Aggregate, scores: list[float]) -> None:
    assert math.isnan(aggregate(scores, how))
