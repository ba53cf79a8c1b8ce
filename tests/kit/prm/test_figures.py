import math

import numpy as np
import pytest

from kit.prm.figures import figures, judged, soft_calibration_error

NAN = math.nan


def arrays(*rows: list[float]) -> list[np.ndarray]:
    return [np.array(row, np.float64) for row in rows]


def test_first_errors_by_hand() -> None:
    labels = arrays([1, 0, NAN], [1, 0], [1, 1], [1, 1], [NAN, 0], [0, 1])
    odds = arrays([2, -1, 5], [-1, -1], [3, 1], [3, -1], [1, -1], [-2, 5])
    # Found; called too early; passed; called wrong; unknown before its error: left out; found.
    assert judged(odds, labels, 0.0) == ([1, 0, -1, 1, 0], [1, 1, -1, -1, 0])
    found = figures(odds, labels)
    assert [found["found_errors"], found["passed_right"]] == pytest.approx([2 / 3, 0.5])
    assert found["f1"] == pytest.approx(4 / 7)


def test_nothing_to_find_is_zero() -> None:
    found = figures(arrays([1.0]), arrays([1.0]))
    assert (found["f1"], found["found_errors"], found["passed_right"]) == (0.0, 0.0, 1.0)
    assert figures([], []) == {}


def test_loss_and_accuracy_by_hand() -> None:
    x = math.log(3)
    found = figures(arrays([x, -x], [x]), arrays([1, 0.25], [0]))
    second = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert found["loss"] == pytest.approx((math.log(4 / 3) + second + math.log(4)) / 3)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["f1"] == 0.0  # the right first solution is no right one: its second step is below one half
    assert found["ece"] == pytest.approx((abs(0.75 - 1 + 0.75) + 0) / 3)


def test_the_threshold_is_a_probability() -> None:
    odds, labels = arrays([1.0, 1.0]), arrays([1, 0])
    assert figures(odds, labels)["found_errors"] == 0.0
    assert figures(arrays([3.0, 1.0]), labels, threshold=0.8)["found_errors"] == 1.0


def test_calibration_error() -> None:
    """Two bins: 0.95 where half are right, 0.05 where none is."""
    chances = np.array([0.95, 0.95, 0.05, 0.05])
    assert soft_calibration_error(chances, np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert soft_calibration_error(np.array([1.0]), np.array([1.0])) == 0.0
