"""Statistics of repeated attempts: pass@k, a selector's expected result at k, correlation, paired tests."""

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from submission.selection.voting import majority

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ENUMERATED = 2_000
"""Subsets up to which an expectation is exact."""
DRAWS = 400
"""Subsets that are drawn beyond that."""


class Interval(NamedTuple):
    """A mean with its interval, of 95 % unless told otherwise."""

    mean: float
    low: float
    high: float

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def bootstrap_interval(
    differences: "npt.NDArray[np.float64]", *, repeats: int, seed: int, level: float = 0.95
) -> Interval:
    """Mean difference with the percentile interval of a bootstrap over seeds and over problems.

    Args:
        differences: [seeds, problems], what one arm scored above the other on the same seed and problem.
            Each repeat draws seeds and problems with replacement, independently, and takes the mean over
            both (the two-way bootstrap of Owen 2007). One row is the plain paired bootstrap over problems.
        repeats: bootstrap draws.
        seed: the same seed gives the same interval.
        level: share of the draws between the ends.

    Raises:
        ValueError: the table is empty or has other than two dimensions.
    """
    import numpy as np

    if differences.ndim != 2 or 0 in differences.shape:
        raise ValueError(f"differences of shape {differences.shape}: expected [seeds, problems], not empty")
    random = np.random.default_rng(seed)
    seeds, problems = differences.shape
    # How often each seed and problem is drawn: the repeat's mean is then two products of small matrices.
    by_seed = random.multinomial(seeds, [1 / seeds] * seeds, size=repeats) / seeds
    by_problem = random.multinomial(problems, [1 / problems] * problems, size=repeats) / problems
    means = ((by_seed @ differences) * by_problem).sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def mean_interval(
    values: Sequence[float], *, repeats: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean of one value a problem with its bootstrap interval over problems."""
    import numpy as np

    table = np.asarray(values, dtype=np.float64).reshape(1, -1)
    return bootstrap_interval(table, repeats=repeats, seed=seed, level=level)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided p-value of McNemar's exact test that two paired arms are right equally often.

    With b and c the pairs where only the first or only the second is right, twice the binomial tail
    P(X <= min(b, c)) of b + c fair coins, at most 1 (McNemar 1947).
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    apart = only_first + only_second
    tail = sum(math.comb(apart, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << apart))


def pass_at_k(attempts: int, right: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n attempts, c of them right, hold a right one.

    The unbiased estimator of Chen et al. 2021, "Evaluating Large Language Models Trained on Code".

    Raises:
        ValueError: not 1 <= k <= attempts, or not 0 <= right <= attempts.
    """
    if not 1 <= k <= attempts or not 0 <= right <= attempts:
        raise ValueError(f"pass@{k} of {attempts} attempts, {right} of them right, is not defined")
    return 1 - math.comb(attempts - right, k) / math.comb(attempts, k)


def expected_at_k(
    attempts: int,
    k: int,
    right: Callable[[Sequence[int]], float],
    *,
    seed: int = 0,
    enumerated: int = ENUMERATED,
    draws: int = DRAWS,
) -> float:
    """Mean of `right` over the subsets of k attempts out of n.

    Exact where there are at most `enumerated` subsets, else over `draws` of them, drawn with `seed`.

    Args:
        attempts: n.
        k: size of a subset.
        right: what choosing among the attempts of these indices, in order of arrival, is worth: 1 for the
            right answer.

    Raises:
        ValueError: not 1 <= k <= attempts.
    """
    if not 1 <= k <= attempts:
        raise ValueError(f"{k} of {attempts} attempts cannot be drawn")
    if math.comb(attempts, k) <= enumerated:
        values = [right(subset) for subset in itertools.combinations(range(attempts), k)]
    else:
        random = Random(seed)
        values = [right(sorted(random.sample(range(attempts), k))) for _ in range(draws)]
    return math.fsum(values) / len(values)


def majority_at_k(
    answers: Sequence[Hashable | None], right: Sequence[bool], k: int, *, seed: int = 0
) -> float:
    """maj@k: the chance that the plain vote of k of the attempts is right, ties by arrival; no vote is wrong.

    Args:
        answers: one an attempt, in order of arrival.
        right: whether each is right.
        k: attempts that vote.
        seed: used where there are too many subsets to count.
    """
    assert len(answers) == len(right), (len(answers), len(right))

    def voted(subset: Sequence[int]) -> float:
        ranked = majority([answers[index] for index in subset])
        return float(bool(ranked) and right[subset[ranked[0].first]])

    return expected_at_k(len(answers), k, voted, seed=seed)


def selection_loss(right: Sequence[Sequence[bool]], chosen: Sequence[bool]) -> float:
    """Share of problems with a right attempt (pass@N) less the share where the chosen answer is right."""
    assert len(right) == len(chosen) > 0, (len(right), len(chosen))
    return (sum(any(one) for one in right) - sum(chosen)) / len(chosen)


def attempt_correlation(right: Sequence[Sequence[bool]]) -> float:
    """Intraclass correlation of attempts at one problem, by one-way analysis of variance.

    rho = (MSB - MSW) / (MSB + (n0 - 1) MSW) with the mean squares between and within problems, and
    n0 = (N - sum n_i^2 / N) / (problems - 1), the common number of attempts where it is one (Donner 1986).
    A consistent estimate of the beta-binomial's 1 / (alpha + beta + 1).

    Returns:
        At most 1; below 0 where attempts agree less than chance; NaN where all attempts are alike.

    Raises:
        ValueError: fewer than two problems, or no problem with two attempts.
    """
    sizes = [len(one) for one in right if one]
    total = sum(sizes)
    if len(sizes) < 2 or total <= len(sizes):
        raise ValueError(f"{len(sizes)} problems with {total} attempts: a correlation takes two of both")
    rates = [sum(one) / len(one) for one in right if one]
    grand = math.fsum(size * rate for size, rate in zip(sizes, rates, strict=True)) / total
    between = math.fsum(size * (rate - grand) ** 2 for size, rate in zip(sizes, rates, strict=True))
    within = math.fsum(size * rate * (1 - rate) for size, rate in zip(sizes, rates, strict=True))
    mean_between = between / (len(sizes) - 1)
    mean_within = within / (total - len(sizes))
    common = (total - sum(size**2 for size in sizes) / total) / (len(sizes) - 1)
    below = mean_between + (common - 1) * mean_within
    return (mean_between - mean_within) / below if below else math.nan


def effective_attempts(attempts: int, correlation: float) -> float:
    """n / (1 + (n - 1) rho): independent attempts that n correlated ones are worth (Kish 1965).

    A correlation below 0 is taken as 0, so this lies between 1 and n; NaN gives NaN.
    """
    if math.isnan(correlation):
        return math.nan
    return attempts / (1 + (attempts - 1) * min(max(correlation, 0.0), 1.0))
