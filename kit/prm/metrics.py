"""How good step scores are: the first wrong step (ProcessBench), and whether probabilities are calibrated.

ProcessBench (Zheng et al. 2024, arXiv 2412.06559) asks for the index of the first wrong step of a solution,
or -1 where none is wrong. F1 is the harmonic mean of two accuracies: on the solutions with an error (exactly
that step named), and on those without (-1 said). A scorer names the first step whose score is below a
threshold, which is chosen on one subset (GSM8K) and kept for the others.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

NO_ERROR = -1
"""Label of a solution without a wrong step."""


class ProcessScore(NamedTuple):
    """Accuracies in 0 to 1 on the two kinds of solutions; NaN where a subset has none of a kind."""

    f1: float
    error_accuracy: float
    """Share of the solutions with an error whose first wrong step was named."""
    correct_accuracy: float
    """Share of the others where none was named."""
    errors: int
    corrects: int


class Threshold(NamedTuple):
    """A step whose score is below `value` counts as wrong; `f1` is what that gives where it was chosen."""

    value: float
    f1: float


class Bin(NamedTuple):
    """Predictions with a probability in `low` (included) to `high` (excluded, but for 1)."""

    low: float
    high: float
    size: int
    confidence: float
    """Mean probability; NaN in an empty bin."""
    accuracy: float
    """Share of the predictions that were right; NaN in an empty bin."""


def first_error(scores: Sequence[float], threshold: float) -> int:
    """Index of the first step with a score below `threshold`, -1 without one. NaN is below everything."""
    return next((index for index, score in enumerate(scores) if not score >= threshold), NO_ERROR)


def process_bench(predicted: Sequence[int], labels: Sequence[int]) -> ProcessScore:
    """ProcessBench's F1 of predicted first errors. Where both accuracies are 0, so is F1.

    Raises:
        ValueError: different lengths.
    """
    if len(predicted) != len(labels):
        raise ValueError(f"{len(predicted)} predictions for {len(labels)} labels")
    pairs = list(zip(predicted, labels, strict=True))
    hits_error = [one == label for one, label in pairs if label != NO_ERROR]
    hits_correct = [one == label for one, label in pairs if label == NO_ERROR]
    error, correct = _mean(hits_error), _mean(hits_correct)
    return ProcessScore(_harmonic(error, correct), error, correct, len(hits_error), len(hits_correct))


def best_threshold(scores: Sequence[Sequence[float]], labels: Sequence[int]) -> Threshold:
    """The threshold of the greatest F1, in the middle of its range; of equal ranges the lowest.

    A solution is judged right for thresholds t with s_label < t <= min of the scores before it (t <= min of
    all scores where no step is wrong), so one sweep over the ends of these ranges tries every threshold that
    differs: O(n log n) for n solutions.

    Args:
        scores: of the steps of each solution.
        labels: of the first wrong step, -1 for none.

    Raises:
        ValueError: different lengths, no solution of one of the kinds, or a label beyond the scores.
    """
    if len(scores) != len(labels):
        raise ValueError(f"the scores of {len(scores)} solutions for {len(labels)} labels")
    totals = [sum(label != NO_ERROR for label in labels), sum(label == NO_ERROR for label in labels)]
    if not all(totals):
        raise ValueError("a threshold is chosen on solutions with and without an error; one kind is missing")
    # (t, kind, change): at thresholds above t the number of right judgements of that kind changes.
    changes: list[tuple[float, int, int]] = []
    counts = [0, 0]
    for steps, label in zip(scores, labels, strict=True):
        if not NO_ERROR <= label < len(steps):
            raise ValueError(f"label {label} of a solution with {len(steps)} scores")
        known = [-math.inf if math.isnan(score) else score for score in steps]
        kind = int(label == NO_ERROR)
        low = -math.inf if kind else known[label]
        high = min(known[: len(known) if kind else label], default=math.inf)
        if kind:
            counts[kind] += 1
        elif low < high:
            changes.append((low, kind, 1))
        if low < high < math.inf or (kind and high == -math.inf):
            changes.append((high, kind, -1))
    changes.sort()
    best = Threshold(math.nan, -1.0)
    ends = [*sorted({value for value, _, _ in changes}), math.inf]
    place, low = 0, -math.inf
    for end in ends:
        # `counts` holds for low < t <= end.
        f1 = _harmonic(counts[0] / totals[0], counts[1] / totals[1])
        if f1 > best.f1 and low < end:
            best = Threshold(_between(low, end), f1)
        while place < len(changes) and changes[place][0] <= end:
            _, kind, change = changes[place]
            counts[kind] += change
            place += 1
        low = end
    return best


def reliability(probabilities: Sequence[float], right: Sequence[bool], bins: int = 10) -> list[Bin]:
    """The reliability curve: `bins` bins of equal width, those without a prediction included.

    Raises:
        ValueError: different lengths, fewer than one bin, or a probability beyond 0 to 1 or NaN.
    """
    if len(probabilities) != len(right) or bins < 1:
        raise ValueError(f"{len(probabilities)} probabilities, {len(right)} outcomes, {bins} bins")
    edges = [index / bins for index in range(bins + 1)]
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for probability, outcome in zip(probabilities, right, strict=True):
        if not 0 <= probability <= 1:
            raise ValueError(f"probability {probability} is not in 0 to 1")
        members[min(bisect_right(edges, probability), bins) - 1].append((probability, bool(outcome)))
    return [
        Bin(low, high, len(group), _mean([one for one, _ in group]), _mean([outcome for _, outcome in group]))
        for low, high, group in zip(edges, edges[1:], members, strict=False)
    ]


def expected_calibration_error(curve: Sequence[Bin]) -> float:
    """Mean distance of accuracy from confidence over the predictions (Guo et al. 2017); NaN without any."""
    total = sum(one.size for one in curve)
    gaps = (one.size * abs(one.accuracy - one.confidence) for one in curve if one.size)
    return math.fsum(gaps) / total if total else math.nan


def _between(low: float, high: float) -> float:
    """A threshold t with low < t <= high: the middle, where there is one."""
    if math.isinf(low):
        return high if math.isfinite(high) else 0.0
    if math.isinf(high):
        return math.nextafter(low, math.inf)
    middle = low + (high - low) / 2
    return middle if low < middle <= high else high


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
