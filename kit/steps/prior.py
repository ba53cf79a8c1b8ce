"""How often success rates of prefixes occur: a distribution on a grid, learnt from counts (empirical Bayes).

The maximum-likelihood mixing distribution of Kiefer and Wolfowitz (1956), found by EM (Laird 1978), with a
Dirichlet prior that keeps it away from certainties that few counts do not bear out. Success rates of prefixes
heap up at 0 (after an error) and anywhere else: no single Beta distribution has that shape.

Counts may come from any rule that stopped on what it had seen: their likelihood is p^s (1-p)^(n-s) all the
same. Time: counts that differ * grid, times at most `ROUNDS`.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]
"""A probability for each rate of `GRID`."""

GRID: Weights = np.concatenate(
    [[0.0, 0.002, 0.005], np.arange(0.01, 0.1, 0.01), np.arange(0.1, 0.96, 0.025), [0.98, 0.99, 0.998, 1.0]]
)
"""Success rates: denser where few successes make the difference."""
ROUNDS = 200
_CLOSE = 1e-6


def default_prior() -> Weights:
    """Before anything was seen: Beta(1/2, 1/2), high at both ends."""
    edges = np.concatenate([[0.0], (GRID[1:] + GRID[:-1]) / 2, [1.0]])
    # Its distribution function is 2/pi * arcsin(sqrt(p)).
    mass: Weights = np.diff(2 / np.pi * np.arcsin(np.sqrt(edges)))
    return mass


def likelihood(rollouts: int, successes: int) -> Weights:
    """p^s (1-p)^(n-s) at each rate of the grid (0^0 is 1)."""
    found: Weights = GRID**successes * (1 - GRID) ** (rollouts - successes)
    return found


def posterior(prior: Weights, rollouts: int, successes: int) -> Weights:
    """The prior after `successes` of `rollouts`; the prior itself where it rules the counts out."""
    joint = prior * likelihood(rollouts, successes)
    total = joint.sum()
    return joint / total if total > 0 else prior


def fit_prior(counts: Sequence[tuple[int, int]], base: Weights, strength: float) -> Weights:
    """The mixing distribution of counts.

    Args:
        counts: roll-outs and successes of each prefix.
        base: where the distribution is drawn to.
        strength: prefixes that `base` weighs as much as (the sum of the Dirichlet prior's counts).

    Returns:
        [len(GRID)], positive where `base` is.
    """
    assert strength > 0, strength
    different = Counter(counts)
    if not different:
        return base
    table = np.stack([likelihood(rollouts, successes) for rollouts, successes in different])
    times = np.array(list(different.values()), np.float64)
    pseudo = strength * base
    weights = base
    for _ in range(ROUNDS):
        joint = table * weights
        shares = joint / joint.sum(axis=1, keepdims=True)
        new: Weights = (times @ shares + pseudo) / (times.sum() + strength)
        moved = float(np.abs(new - weights).sum())
        weights = new
        if moved < _CLOSE:
            break
    return weights
