import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.prm.calibration import fit_scale_and_bias


def loss(scale: float, bias: float, x: np.ndarray, y: np.ndarray) -> float:
    z = scale * x + bias
    return float(np.mean(np.logaddexp(0.0, z) - y * z))


def test_the_truth_is_found() -> None:
    x = np.linspace(-60, 5, 4000)
    found = fit_scale_and_bias(x, 1 / (1 + np.exp(-(0.3 * x + 4.0))))
    assert found == pytest.approx((0.3, 4.0), rel=0.05)


def test_nothing_is_better() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=200)
    y = (random.random(200) < 1 / (1 + np.exp(-(2 * x - 1)))).astype(float)
    scale, bias = fit_scale_and_bias(x, y)
    best = loss(scale, bias, x, y)
    for ds, db in ((0.3, 0), (-0.3, 0), (0, 0.3), (0, -0.3)):
        assert loss(scale + ds, bias + db, x, y) > best


def test_scores_that_say_the_opposite_get_the_least_scale() -> None:
    x = np.array([-2.0, -1.0, 1.0, 2.0] * 10)
    scale, bias = fit_scale_and_bias(x, (x < 0).astype(float))
    assert 0 < scale < 0.01
    assert abs(bias) < 0.1


def test_no_data_is_the_prior() -> None:
    assert fit_scale_and_bias(np.zeros(0), np.zeros(0), (2.0, -1.0)) == (2.0, -1.0)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(0, 1)), min_size=1, max_size=30),
)
def test_any_data_gives_a_positive_finite_scale(pairs: list[tuple[float, float]]) -> None:
    x, y = (np.array(part, np.float64) for part in zip(*pairs, strict=True))
    scale, bias = fit_scale_and_bias(x, y)
    assert np.isfinite([scale, bias]).all()
    assert scale > 0
