"""How good step scores are: accuracy, ProcessBench's F1, log-loss, calibration."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kit.prm.metrics import NO_ERROR, first_error, process_bench

Steps = npt.NDArray[np.float64]

BINS = 10


def figures(log_odds: Sequence[Steps], labels: Sequence[Steps], threshold: float = 0.5) -> dict[str, float]:
    """Figures of some solutions.

    Args:
        log_odds: [S] of each solution's steps, in order.
        labels: [S] of the same, 0 to 1; NaN where unknown.
        threshold: probability below which a step is called wrong.

    Returns:
        `loss` in nats a labelled step; `accuracy` of steps; `f1` of the first wrong step with its two
        parts, `found_errors` and `passed_right` (0 where there is no solution of a kind); `ece`.
    """
    assert len(log_odds) == len(labels)
    x, y = np.concatenate([*log_odds, []]), np.concatenate([*labels, []])
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if not len(y):
        return {}
    cut = math.log(threshold / (1 - threshold))
    softplus = np.logaddexp(0.0, x)
    score = process_bench(*judged(log_odds, labels, cut))
    with np.errstate(over="ignore"):
        chances = 1 / (1 + np.exp(-x))
    return {
        "loss": float(np.mean(softplus - y * x)),
        "accuracy": float(np.mean((x >= cut) == (y >= 0.5))),
        "f1": _or_zero(score.f1),
        "found_errors": _or_zero(score.error_accuracy),
        "passed_right": _or_zero(score.correct_accuracy),
        "ece": soft_calibration_error(chances, y),
    }


def judged(scores: Sequence[Steps], labels: Sequence[Steps], threshold: float) -> tuple[list[int], list[int]]:
    """First wrong steps as scored and as labelled, -1 for none; see `kit.prm.metrics.process_bench`.

    Solutions whose labels are not known up to the first wrong step are left out.
    """
    found, known = [], []
    for x, y in zip(scores, labels, strict=True):
        label = first_wrong(y)
        if label is not None:
            found.append(first_error(x.tolist(), threshold))
            known.append(label)
    return found, known


def first_wrong(labels: Steps) -> int | None:
    """Index of the first step labelled wrong (below one half), -1 without one; None where a label before it
    is missing.
    """
    wrong = np.flatnonzero(labels < 0.5)
    end = int(wrong[0]) if len(wrong) else NO_ERROR
    return end if np.isfinite(labels[: end if len(wrong) else len(labels)]).all() else None


def soft_calibration_error(chances: Steps, labels: Steps) -> float:
    """Expected calibration error over ten equal bins (Guo et al. 2017, arXiv 1706.04599), for soft labels.

    That of `kit.prm.metrics`, where a bin's accuracy is the mean of its labels.
    """
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, chances - labels, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
