"""Traces with scripted roll-outs, and a synchronous run over them."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from kit.steps.labels import Ask, StepLabel
from kit.steps.outcomes import Outcomes
from kit.steps.replay import replay
from kit.steps.rounds import Outline, Policy
from kit.steps.stopping import Design, needed_successes

Draw = Callable[[str, int], bool]


def policy(rollouts: int = 32, threshold: float = 0.125, wave: int = 0, **options: object) -> Policy:
    """As a recipe's defaults make it, but for the roll-outs, and the waves where they are given."""
    defaults: dict[str, object] = {
        "adaptive": True,
        "agreement": 0.96,
        "spend": 0.25,
        "pilot": 32,
        "audit": 0.02,
        "search": "all",
    }
    design = Design(rollouts, needed_successes(rollouts, threshold), wave or 1, 0 if wave else 4)
    return Policy(design, **{**defaults, **options})  # type: ignore[arg-type]


def draw_all(
    policy: Policy, outlines: Sequence[Outline], draw: Draw, outcomes: Outcomes | None = None
) -> tuple[dict[int, list[StepLabel]], Outcomes]:
    """What the workers do, in a single thread."""
    outcomes = outcomes or Outcomes(Path("nowhere"))
    found = None
    while True:
        found = replay(policy, outlines, outcomes, found)
        if found.open_round is None:
            return found.labels, outcomes
        for index in policy.rounds(outlines)[found.open_round]:
            outline = outlines[index]
            while isinstance(ask := found.rules.label(outline, outcomes.of, policy.search), Ask):
                key = outline.keys[ask.step]
                for number in ask.rollouts:
                    if number not in outcomes.of(key):
                        outcomes.add(key, number, draw(key, number))


def scripted(rates: dict[str, float], seed: int = 0) -> Draw:
    """A sampler whose prefixes succeed at these rates; the same outcome for the same key and number."""

    def draw(key: str, number: int) -> bool:
        return random.Random(f"{seed}/{key}/{number}").random() < rates[key]

    return draw


def simulate(
    seed: int, count: int, right_rate: Callable[[random.Random], float], lucky: float, slips: float
) -> tuple[list[Outline], dict[str, float]]:
    """Traces of 2 to 8 steps. Steps fail with probability `slips`; then the rate is about `lucky`.

    Args:
        right_rate: draws the success rate of a trace's problem, which grows a little with each right step.
    """
    source = random.Random(seed)
    outlines, rates = [], {}
    for number in range(count):
        rate, wrong, keys = right_rate(source), False, []
        for step in range(source.randint(1, 7)):
            wrong = wrong or source.random() < slips
            rate = rate + 0.15 * (1 - rate)
            keys.append(key := f"{number:08d}{step:04d}")
            rates[key] = lucky * source.random() * 2 if wrong else rate
        outlines.append(Outline(tuple(keys), source.random() < rates[keys[-1]]))
    return outlines, rates
