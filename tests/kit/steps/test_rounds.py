"""Whole runs on simulated models: adaptive labels against those of 32 roll-outs, over many mixtures."""

import random
from collections.abc import Callable

import pytest

from kit.steps.labels import StepLabel
from kit.steps.replay import replay
from tests.kit.steps.made import draw_all, policy, scripted, simulate

pytestmark = pytest.mark.slow
# Success rates of fresh problems; rate after an error; share of steps that fail.
Model = tuple[Callable[[random.Random], float], float, float]
MODELS: dict[str, Model] = {
    "strong": (lambda source: source.betavariate(8, 2), 0.03, 0.1),
    "strong, errors can be mended": (lambda source: source.betavariate(8, 2), 0.4, 0.15),
    "middle": (lambda source: source.betavariate(2, 2), 0.02, 0.2),
    "weak": (lambda source: source.betavariate(1, 3), 0.01, 0.3),
    "some problems hopeless": (lambda source: source.choice([0.0, 0.7]), 0.0, 0.2),
    "every problem easy": (lambda source: 0.95, 0.0, 0.05),
    "hopeless": (lambda source: 0.0, 0.01, 0.5),
}


def flat(labels: dict[int, list[StepLabel]]) -> list[bool]:
    return [label.right for index in sorted(labels) for label in labels[index][:-1]]


def share(some: list[bool], others: list[bool]) -> float:
    return sum(a == b for a, b in zip(some, others, strict=True)) / len(some)


@pytest.mark.parametrize("name", MODELS)
def test_adaptive_labels_are_those_of_32_rollouts_at_two_fifths(name: str) -> None:
    right_rate, lucky, slips = MODELS[name]
    outlines, rates = simulate(5, 250, right_rate, lucky, slips)
    draw = scripted(rates)
    fixed, whole = draw_all(policy(adaptive=False), outlines, draw)
    found, spent = draw_all(policy(), outlines, draw)
    assert share(flat(found), flat(fixed)) >= 0.95
    assert spent.rollouts <= 0.4 * whole.rollouts


def test_estimates_are_less_biased_than_fractions() -> None:
    outlines, rates = simulate(6, 250, *MODELS["middle"])
    made = policy()
    labels, outcomes = draw_all(made, outlines, scripted(rates))
    found = replay(made, outlines, outcomes)
    errors, fractions = 0.0, 0.0
    for index, row in labels.items():
        for key, label in zip(outlines[index].keys, row, strict=False):
            errors += (found.rules_of[index].estimate(label) - rates[key]) ** 2
            fractions += (label.successes / label.rollouts - rates[key]) ** 2
    assert errors < 0.8 * fractions


def test_the_audit_measures_the_agreement() -> None:
    outlines, rates = simulate(7, 500, *MODELS["weak"])
    draw = scripted(rates)
    found, _ = draw_all(policy(audit=0.2), outlines, draw)
    fixed, _ = draw_all(policy(adaptive=False), outlines, draw)
    audits = [label.audit for row in found.values() for label in row if label.audit is not None]
    assert len(audits) > 150
    assert sum(audits) / len(audits) == pytest.approx(share(flat(found), flat(fixed)), abs=0.05)
