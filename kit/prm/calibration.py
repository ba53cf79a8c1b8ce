"""Platt scaling: scale and bias that make log-odds probabilities (Platt 1999)."""

import numpy as np
import numpy.typing as npt

ROUNDS = 100
_LEAST_SCALE = 1e-3
_RIDGE = 1e-2
"""In steps: what the pull towards the prior weighs against all labels."""


def fit_scale_and_bias(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], prior: tuple[float, float] = (1.0, 0.0)
) -> tuple[float, float]:
    """Scale a > 0 and bias b of least log-loss of sigmoid(a x + b) on soft labels.

    Newton's method with halved steps; the loss is convex. A small ridge towards `prior` keeps separable data
    finite. Where the best scale is not positive (scores that say nothing, or the opposite), it is the least
    one, and the bias fits the share of right steps.

    Args:
        x: [S] log-odds, finite.
        y: [S] labels, 0 to 1.
        prior: where the ridge pulls to.
    """
    assert len(x) == len(y)
    if not len(x):
        return prior
    spread = float(np.std(x)) or 1.0
    # In units of the data, so that the ridge means the same for any scores.
    inputs = np.stack([x / spread, np.ones_like(x)], axis=1)
    home = np.array([prior[0] * spread, prior[1]])
    ridge = _RIDGE / len(y)

    def loss(w: npt.NDArray[np.float64]) -> float:
        z = inputs @ w
        return float(np.mean(np.logaddexp(0.0, z) - y * z) + ridge / 2 * ((w - home) @ (w - home)))

    w = home.copy()
    for _ in range(ROUNDS):
        z = inputs @ w
        p = 1 / (1 + np.exp(-np.clip(z, -500, 500)))
        slope = inputs.T @ (p - y) / len(y) + ridge * (w - home)
        curve = (inputs * (p * (1 - p))[:, None]).T @ inputs / len(y) + ridge * np.eye(2)
        move, size = np.linalg.solve(curve, slope), 1.0
        while loss(w - size * move) > loss(w) and size > 1e-8:
            size /= 2
        w = w - size * move
        if float(np.abs(slope).max()) < 1e-10:
            break
    scale, bias = float(w[0]) / spread, float(w[1])
    if scale > _LEAST_SCALE / spread:
        return scale, bias
    share = float(np.clip(np.mean(y), 1e-3, 1 - 1e-3))
    least = _LEAST_SCALE / spread
    return least, float(np.log(share / (1 - share)) - least * np.mean(x))
