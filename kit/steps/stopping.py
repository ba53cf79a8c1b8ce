"""When to stop rolling out a prefix: the cheapest rule that agrees with the label of all roll-outs.

The label is right where at least `needed` of `rollouts` roll-outs are. Given a distribution of success rates,
every pair (drawn, successes) has a probability that all roll-outs would give the label right, and stopping
there costs the chance to disagree. A roll-out costs `price`. Backward induction (Wald 1950; stochastic
curtailment, Lan, Simon and Halperin 1982) compares stopping with going on, from the last wave to the first.

Pure numbers. Time and memory of a table: rollouts^2 / wave cells times the prior's grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from math import comb
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kit.steps.prior import GRID, Weights

PRICES = (1e-6, 1.0)
"""Least and greatest price of a roll-out, in disagreements: at 1, none after the first wave pays."""
_HALVINGS = 16
_NOISE = 1e-12


def needed_successes(rollouts: int, threshold: float) -> int:
    """Successes that make the label right: a share of at least `threshold`, and at least one."""
    # Without the last digits' noise: 0.7 * 10 must give 7, not 8.
    return max(1, int(np.ceil(threshold * rollouts - 1e-9)))


@dataclass(frozen=True)
class Design:
    """What all rules of a run share.

    Args:
        rollouts: of a prefix at most.
        needed: successes among them that make its label right.
        wave: roll-outs between two decisions.
        first: roll-outs before the first one; 0: a wave.
    """

    rollouts: int
    needed: int
    wave: int
    first: int = 0

    def __post_init__(self) -> None:
        assert 1 <= self.needed <= self.rollouts and self.wave >= 1 and self.first >= 0, self

    @cached_property
    def levels(self) -> list[int]:
        """Roll-outs drawn at each decision: 0, first, first + wave, first + 2 wave, … rollouts."""
        return [0, *range(self.first or self.wave, self.rollouts, self.wave), self.rollouts]

    def certain(self, drawn: int, successes: int) -> bool:
        """Whether no outcome of what is left changes the label."""
        return successes >= self.needed or successes + self.rollouts - drawn < self.needed


class Verdict(NamedTuple):
    """Where a prefix stands. `right` is the likelier label, final where `stop` is true."""

    stop: bool
    right: bool


@dataclass(frozen=True)
class Rule:
    """A decision for every state of a prefix.

    Args:
        design: of the run.
        stop: by level, [drawn + 1] booleans by successes.
        right: the same for labels.
    """

    design: Design
    stop: Mapping[int, npt.NDArray[np.bool_]]
    right: Mapping[int, npt.NDArray[np.bool_]]

    def verdict(self, outcomes: Sequence[bool]) -> tuple[Verdict, int]:
        """The first stop along a prefix's outcomes in order, and how many of them it took.

        Without a stop among them: the verdict at the last whole wave, and the outcomes up to there.
        """
        last = successes = 0
        for level in self.design.levels:
            if level > len(outcomes):
                break
            successes += sum(outcomes[last:level])
            last = level
            if self.stop[level][successes]:
                return Verdict(True, bool(self.right[level][successes])), level
        return Verdict(False, bool(self.right[last][successes])), last

    def next_stop(self, drawn: int, successes: int) -> int:
        """The first level behind `drawn` at which some outcome stops: nothing is decided before it."""
        return next(
            level
            for level in self.design.levels
            if level > drawn and self.stop[level][successes : successes + level - drawn + 1].any()
        )


def certainty_rule(design: Design, prior: Weights) -> Rule:
    """Stops only where the label can no longer change (curtailed sampling)."""
    stop = {
        level: np.array([level > 0 and design.certain(level, successes) for successes in range(level + 1)])
        for level in design.levels
    }
    return Rule(design, stop, _Outlook.of(design, prior).right)


def every_rollout(design: Design, prior: Weights) -> Rule:
    """Stops nowhere before the last roll-out."""
    stop = {level: np.full(level + 1, level == design.rollouts) for level in design.levels}
    return Rule(design, stop, _Outlook.of(design, prior).right)


def priced_rule(design: Design, prior: Weights, price: float) -> Rule:
    """The rule of least expected (disagreement + price * roll-outs); it never stops before the first wave."""
    return _priced(design, _Outlook.of(design, prior), price).rule


class _Priced(NamedTuple):
    rule: Rule
    disagreement: float
    rollouts: float


def _priced(design: Design, outlook: "_Outlook", price: float) -> _Priced:
    """The rule, and what its prior expects of it."""
    levels = design.levels
    value = chance = outlook.disagree[levels[-1]]
    stop = {levels[-1]: np.ones(levels[-1] + 1, bool)}
    drawn = np.full(levels[-1] + 1, float(levels[-1]))
    for level, following in reversed(list(pairwise(levels))):
        going_on = price * (following - level) + outlook.mean(level, value)
        here = outlook.disagree[level]
        stop[level] = (here <= going_on) & (level > 0)
        value = np.where(stop[level], here, going_on)
        chance = np.where(stop[level], here, outlook.mean(level, chance))
        drawn = np.where(stop[level], level, outlook.mean(level, drawn))
    return _Priced(Rule(design, stop, outlook.right), float(chance[0]), float(drawn[0]))


class Expectation(NamedTuple):
    """What a rule does to prefixes of a distribution.

    Args:
        agreement: probability of the label that these very roll-outs, drawn to the last, would give.
        rollouts: expected number a prefix.
        independent: probability of the label of `rollouts` other roll-outs.
    """

    agreement: float
    rollouts: float
    independent: float


def expectation(rule: Rule, rates: Weights) -> Expectation:
    """Exact figures of a rule for prefixes whose success rates are distributed as `rates` on the grid."""
    design = rule.design
    levels = design.levels
    reached: npt.NDArray[np.float64] = rates[np.newaxis]  # [successes, grid]
    agreement = drawn = independent = 0.0
    whole = _tail(design.rollouts, design.needed)
    for level, following in zip(levels, [*levels[1:], None], strict=True):
        stop, right = rule.stop[level], rule.right[level]
        tails = _tails(design, level)
        ended = reached * stop[:, np.newaxis]
        agreement += float((ended * np.where(right[:, np.newaxis], tails, 1 - tails)).sum())
        independent += float((ended * np.where(right[:, np.newaxis], whole, 1 - whole)).sum())
        drawn += level * float(ended.sum())
        if following is not None:
            reached = _advance(reached - ended, following - level)
    return Expectation(agreement, drawn, independent)


def fixed_expectation(design: Design, rates: Weights) -> float:
    """Probability that two independent labels of all roll-outs agree: what no cheaper rule can promise."""
    whole = _tail(design.rollouts, design.needed)
    return float((rates * (whole**2 + (1 - whole) ** 2)).sum())


def calibrated_rules(
    design: Design,
    priors: Mapping[str, Weights],
    shares: Mapping[str, float],
    agreement: float,
    spend: float = 0.0,
) -> dict[str, Rule]:
    """One rule a prior, all at the one price at which labels agree often enough on average.

    Args:
        priors: by context.
        shares: how often each context occurs; any positive scale.
        agreement: wanted probability of the label of all roll-outs, averaged over contexts.
        spend: share of all roll-outs that is drawn even where fewer would do: priors are estimates.

    Returns:
        Rules of the highest price that keeps to `agreement` and draws `spend` under these very priors (or
        leaves next to no doubt); where none keeps to it, as at 1, rules that stop on certainty alone.
    """
    total = sum(shares[name] for name in priors)
    outlooks = {name: _Outlook.of(design, prior) for name, prior in priors.items()}

    def rules_at(price: float) -> tuple[dict[str, Rule], bool, bool]:
        found = {name: _priced(design, outlook, price) for name, outlook in outlooks.items()}
        wrong = sum(shares[name] * one.disagreement for name, one in found.items()) / total
        drawn = sum(shares[name] * one.rollouts for name, one in found.items()) / total
        agrees = wrong <= 1 - agreement + _NOISE
        return {name: one.rule for name, one in found.items()}, agrees, drawn >= spend * design.rollouts

    best, agrees, spent = rules_at(PRICES[1])
    if agrees and spent:
        return best
    best, agrees, spent = rules_at(PRICES[0])
    if not agrees:
        return {name: certainty_rule(design, prior) for name, prior in priors.items()}
    if not spent:
        return best
    low, high = np.log(PRICES)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rules, agrees, spent = rules_at(float(np.exp(middle)))
        if agrees and spent:
            low, best = middle, rules
        else:
            high = middle
    return best


@dataclass(frozen=True)
class _Outlook:
    """What a prior expects from every state; by level, rows by successes.

    Args:
        right: whether the label of all roll-outs is likelier right than wrong.
        disagree: probability that it is the less likely one.
        chances: [level + 1, wave + 1], of the successes of the next wave.
    """

    right: Mapping[int, npt.NDArray[np.bool_]]
    disagree: Mapping[int, npt.NDArray[np.float64]]
    chances: Mapping[int, npt.NDArray[np.float64]]

    @classmethod
    def of(cls, design: Design, prior: Weights) -> "_Outlook":
        right, disagree, chances = {}, {}, {}
        for level, following in zip(design.levels, [*design.levels[1:], design.rollouts], strict=True):
            counts = np.arange(level + 1)[:, np.newaxis]
            joint = prior * GRID**counts * (1 - GRID) ** (level - counts)
            posterior = joint / joint.sum(axis=1, keepdims=True)
            chance = (posterior * _tails(design, level)).sum(axis=1)
            right[level] = chance >= 0.5
            disagree[level] = np.minimum(chance, 1 - chance).clip(min=0)
            chances[level] = posterior @ _pmf(following - level).T
        return cls(right, disagree, chances)

    def mean(self, level: int, value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """[level + 1]: mean of the next level's `value`."""
        ahead = np.lib.stride_tricks.sliding_window_view(value, self.chances[level].shape[1])
        found: npt.NDArray[np.float64] = (self.chances[level] * ahead).sum(axis=1)
        return found


@cache
def _tails(design: Design, level: int) -> npt.NDArray[np.float64]:
    """[level + 1, grid]: probability that all roll-outs give the label right, by successes so far."""
    left = design.rollouts - level
    return np.stack([_tail(left, design.needed - successes) for successes in range(level + 1)])


@cache
def _pmf(count: int) -> npt.NDArray[np.float64]:
    """[count + 1, grid]: probabilities of 0 … count successes."""
    return np.stack([comb(count, x) * GRID**x * (1 - GRID) ** (count - x) for x in range(count + 1)])


def _tail(count: int, least: int) -> Weights:
    """[grid]: probability of at least `least` successes in `count`."""
    if least <= 0:
        return np.ones_like(GRID)
    found: Weights = _pmf(count)[least:].sum(axis=0) if least <= count else np.zeros_like(GRID)
    return found


def _advance(reached: npt.NDArray[np.float64], more: int) -> npt.NDArray[np.float64]:
    """[successes, grid] of a level to that of the next."""
    found = np.zeros((len(reached) + more, reached.shape[1]))
    for x, chance in enumerate(_pmf(more)):
        found[x : x + len(reached)] += reached * chance
    return found
