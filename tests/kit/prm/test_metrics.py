import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.prm.metrics import (
    NO_ERROR,
    best_threshold,
    expected_calibration_error,
    first_error,
    process_bench,
    reliability,
)

LABELS = [0, 2, 1, 1, NO_ERROR, NO_ERROR]
"""Four solutions with an error, two without."""

score = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.75, 1.0, math.nan])


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[list[float]], list[int]]:
    """Scores and labels of a few solutions of both kinds."""
    solutions = draw(st.lists(st.lists(score, min_size=1, max_size=5), min_size=2, max_size=8))
    labels = [draw(st.integers(NO_ERROR, len(steps) - 1)) for steps in solutions]
    labels[0], labels[1] = NO_ERROR, max(labels[1], 0)
    return solutions, labels


def test_the_first_step_below_the_threshold() -> None:
    assert first_error([0.9, 0.4, 0.1], 0.5) == 1
    assert first_error([0.9, 0.5], 0.5) == NO_ERROR
    assert first_error([], 0.5) == NO_ERROR
    assert first_error([0.9, math.nan, 0.1], 0.5) == 1


def test_f1_by_hand() -> None:
    # Errors: 0 and 2 named, 1 once, once not: 3 of 4. Corrects: one of two. 2 * 3/4 * 1/2 / (5/4) = 3/5.
    found = process_bench([0, 2, 1, NO_ERROR, NO_ERROR, 3], LABELS)
    assert found == pytest.approx((0.6, 0.75, 0.5, 4, 2))


def test_degenerate_predictors() -> None:
    assert process_bench([NO_ERROR] * 6, LABELS) == (0.0, 0.0, 1.0, 4, 2), "all right"
    # Always the first step: one error of four is there, no correct solution is left alone.
    assert process_bench([0] * 6, LABELS) == (0.0, 0.25, 0.0, 4, 2), "all wrong"
    assert process_bench(LABELS, LABELS) == (1.0, 1.0, 1.0, 4, 2), "oracle"
    assert process_bench([5] * 6, LABELS).f1 == 0.0, "neither accuracy is above zero"


def test_a_random_predictor() -> None:
    # Solutions of 4 steps, labels and predictions uniform over the 5 outcomes: both accuracies are 1/5, and
    # so is F1. 20,000 draws leave 4 standard errors of 0.016 on the 4,000 corrects.
    random = Random(0)
    labels = [random.randint(-1, 3) for _ in range(20_000)]
    found = process_bench([random.randint(-1, 3) for _ in labels], labels)
    assert found.error_accuracy == pytest.approx(0.2, abs=0.013)
    assert found.correct_accuracy == pytest.approx(0.2, abs=0.026)
    assert found.f1 == pytest.approx(0.2, abs=0.02)


def test_one_kind_alone_has_no_f1() -> None:
    found = process_bench([NO_ERROR], [NO_ERROR])
    assert math.isnan(found.f1)
    assert math.isnan(found.error_accuracy)
    assert found.correct_accuracy == 1
    with pytest.raises(ValueError, match="1 predictions for 2 labels"):
        process_bench([0], [0, 1])


def test_the_threshold_by_hand() -> None:
    # Right for t in (0.3, 0.9], (0.2, 0.6], t <= 0.5, t <= 0.8: in (0.3, 0.5] all four are.
    scores = [[0.9, 0.3], [0.6, 0.2], [0.5, 0.7], [0.8]]
    found = best_threshold(scores, [1, 1, NO_ERROR, NO_ERROR])
    assert found == pytest.approx((0.4, 1.0))


@given(scored())
def test_the_threshold_beats_every_other(given_: tuple[list[list[float]], list[int]]) -> None:
    scores, labels = given_
    found = best_threshold(scores, labels)

    def f1(threshold: float) -> float:
        return process_bench([first_error(steps, threshold) for steps in scores], labels).f1

    assert f1(found.value) == pytest.approx(found.f1), "what it promises is what it gives"
    known = sorted({one for steps in scores for one in steps if not math.isnan(one)})
    tried = [*known, *(one + 1e-3 for one in known), -1.0]
    assert all(f1(threshold) <= found.f1 + 1e-12 for threshold in tried)


def test_a_threshold_needs_both_kinds_and_labels_that_exist() -> None:
    with pytest.raises(ValueError, match="one kind is missing"):
        best_threshold([[0.1]], [0])
    with pytest.raises(ValueError, match="label 2 of a solution with 1 scores"):
        best_threshold([[0.1], [0.2]], [2, NO_ERROR])
    with pytest.raises(ValueError, match="scores of 1 solutions for 2 labels"):
        best_threshold([[0.1]], [0, 1])


def test_reliability_by_hand() -> None:
    curve = reliability([0.1, 0.3, 0.5, 0.9, 1.0], [False, True, True, True, False], bins=2)
    assert curve[0] == pytest.approx((0.0, 0.5, 2, 0.2, 0.5))
    assert curve[1] == pytest.approx((0.5, 1.0, 3, 0.8, 2 / 3))
    # 2/5 * |0.5 - 0.2| + 3/5 * |2/3 - 0.8| = 0.12 + 0.08.
    assert expected_calibration_error(curve) == pytest.approx(0.2)


def test_the_error_of_known_predictors() -> None:
    outcomes = [True, False] * 50
    assert expected_calibration_error(reliability([0.5] * 100, outcomes)) == 0.0
    assert expected_calibration_error(reliability([1.0] * 100, outcomes)) == 0.5
    assert expected_calibration_error(reliability([float(one) for one in outcomes], outcomes)) == 0.0
    assert math.isnan(expected_calibration_error(reliability([], [])))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans())), st.integers(1, 12))
def test_every_prediction_lands_in_its_bin(pairs: list[tuple[float, bool]], bins: int) -> None:
    curve = reliability([one for one, _ in pairs], [right for _, right in pairs], bins)
    assert len(curve) == bins
    assert sum(one.size for one in curve) == len(pairs)
    assert all(one.low - 1e-12 <= one.confidence <= one.high + 1e-12 for one in curve if one.size)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="is not in 0 to 1"):
        reliability([probability], [True])
