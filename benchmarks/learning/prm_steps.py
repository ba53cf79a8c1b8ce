"""Exact truth of each step of a policy's solution to a worked problem, and a scorer that knows no content.

A worked problem (`kit.worked`, operands in their own order) has one right solution: a step is right where it
is the step that stands there. What follows the first wrong one has no label.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kit.data.labelled import LabelledSolution
from kit.data.records import Record
from kit.prm.figures import first_wrong
from kit.prm.metrics import best_threshold
from submission.steps import split_steps

Steps = npt.NDArray[np.float64]


def judged(record: Record, text: str, name: str = "") -> LabelledSolution | None:
    """The solution's steps with their truth; None of an empty text."""
    steps = split_steps(text)
    if not steps:
        return None
    right = split_steps(record.completion)
    labels: list[float | None] = []
    for index, step in enumerate(steps):
        known = not labels or labels[-1] == 1
        labels.append(float(index < len(right) and step == right[index]) if known else None)
    return LabelledSolution(problem=record.problem, steps=tuple(steps), labels=tuple(labels), id=name)


def place_features(record: LabelledSolution) -> Steps:
    """[S, F] of what is seen of each step without reading it: a 1, its number, its share of all, its length,
    the length so far, and whether it is the last.
    """
    sizes = np.array([len(step) for step in record.steps], np.float64)
    count = len(sizes)
    number = np.arange(1, count + 1)
    last = (number == count).astype(np.float64)
    columns = (np.ones(count), number / 4, number / count, sizes / 20, np.cumsum(sizes) / 60, last)
    return np.stack(columns, axis=1)


def fit_places(records: Sequence[LabelledSolution], rounds: int = 50) -> Steps:
    """[F] weights of a logistic regression on `place_features`, by Newton's method with a small ridge."""
    inputs = np.concatenate([place_features(record) for record in records])
    labels = np.array([np.nan if v is None else v for record in records for v in record.labels], np.float64)
    known = np.isfinite(labels)
    x, y = inputs[known], labels[known]
    weights = np.zeros(x.shape[1])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (p - y) / len(y) + 1e-4 * weights
        curve = (x * (p * (1 - p))[:, None]).T @ x / len(y) + 1e-4 * np.eye(x.shape[1])
        weights = weights - np.linalg.solve(curve, slope)
    return weights


def values_of(record: LabelledSolution) -> Steps:
    """[S] labels, NaN where there is none."""
    return np.array([np.nan if value is None else value for value in record.labels], np.float64)


def best_cut(scores: Sequence[Steps], labels: Sequence[Steps]) -> float:
    """The threshold of highest F1 on these solutions."""
    pairs = [(x.tolist(), first_wrong(y)) for x, y in zip(scores, labels, strict=True)]
    known = [(steps, label) for steps, label in pairs if label is not None]
    return best_threshold([steps for steps, _ in known], [label for _, label in known]).value


def wrong_step_f1(scores: Sequence[Steps], labels: Sequence[Steps], cut: float) -> float:
    """F1 of calling a step wrong where its score is below `cut`, over all labelled steps; 0 without a hit.

    ProcessBench's F1 is 0 for any scorer that cannot tell two right solutions from each other where they have
    the same shape; this one is not.
    """
    called, wrong = _called(np.concatenate(list(scores)), np.concatenate(list(labels)), cut)
    hits = float((called & wrong).sum())
    return 2 * hits / float(called.sum() + wrong.sum()) if hits else 0.0


def best_wrong_cut(scores: Sequence[Steps], labels: Sequence[Steps]) -> float:
    """The threshold of highest `wrong_step_f1` on these solutions, out of 199 quantiles of their scores."""
    cuts = np.quantile(np.concatenate(list(scores)), np.linspace(0.005, 0.995, 199))
    return float(max(cuts, key=lambda cut: wrong_step_f1(scores, labels, float(cut))))


def _called(scores: Steps, labels: Steps, cut: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    known = np.isfinite(labels)
    return scores[known] < cut, labels[known] < 0.5
