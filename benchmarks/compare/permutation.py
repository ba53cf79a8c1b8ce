"""The paired randomization test, which knows repeats and does not trust few problems as a bootstrap does."""

from typing import TYPE_CHECKING

from submission.selection.statistics import mcnemar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DRAWS = 20_000
EXACT = 14
"""Differing problems up to which every sign is tried."""


def sign_flip_test(differences: "npt.NDArray[np.float64]", *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p-value that the mean is 0, with each problem's difference as likely of either sign.

    Fisher's randomization test for pairs (Good 2005, "Permutation, Parametric, and Bootstrap Tests of
    Hypotheses", 3.2). Where all that differ differ alike (one repeat each) it is McNemar's exact test, and
    is computed so; else exact up to 14 differing problems, and beyond of random signs with Phipson and
    Smyth's 2010 correction, so never 0.

    Args:
        differences: [problems], the second run's share of right answers minus the first's.
        draws: random signs.
        seed: of them.

    Raises:
        ValueError: no problem.
    """
    import numpy as np

    if differences.ndim != 1 or not differences.size:
        raise ValueError(f"differences of shape {differences.shape}: expected [problems], not empty")
    apart = differences[differences != 0]
    if not apart.size:
        return 1.0
    sizes = np.abs(apart)
    if np.allclose(sizes, sizes[0]):
        return mcnemar([bool(one) for one in apart < 0], [bool(one) for one in apart > 0])
    seen = abs(float(apart.sum())) - 1e-9
    if apart.size <= EXACT:
        bits = (np.arange(1 << apart.size)[:, None] >> np.arange(apart.size)) & 1
        return float((np.abs((1 - 2 * bits) @ apart) >= seen).mean())
    random = np.random.default_rng(seed)
    hits = 0
    for size in (draws // 20,) * 20:  # in parts: 20,000 signs of thousands of problems are gigabytes
        signs = 1.0 - 2.0 * random.integers(0, 2, size=(size, apart.size))
        hits += int((np.abs(signs @ apart) >= seen).sum())
    return (hits + 1) / (20 * (draws // 20) + 1)
