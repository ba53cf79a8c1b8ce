"""Priors, stopping rules and their exact figures."""

import random
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.steps.prior import GRID, Weights, default_prior, fit_prior, likelihood, posterior
from kit.steps.stopping import (
    Design,
    Rule,
    calibrated_rules,
    certainty_rule,
    every_rollout,
    expectation,
    fixed_expectation,
    needed_successes,
    priced_rule,
)


def at(rate: float) -> Weights:
    weights = np.zeros_like(GRID)
    weights[np.abs(GRID - rate).argmin()] = 1
    return weights


def mixture(*parts: tuple[float, float]) -> Weights:
    """Of (share, rate)."""
    total: Weights = sum((share * at(rate) for share, rate in parts), np.zeros_like(GRID))
    found: Weights = total / total.sum()
    return found


@st.composite
def distributions(draw: st.DrawFn) -> Weights:
    """Any distribution: many rates with random weights."""
    raw = draw(st.lists(st.floats(0, 1), min_size=len(GRID), max_size=len(GRID)))
    weights = np.array(raw) ** draw(st.sampled_from([1, 8])) + 1e-9
    weights[0] += draw(st.floats(0, 40))
    found: Weights = weights / weights.sum()
    return found


@pytest.mark.parametrize(
    ("rollouts", "threshold", "needed"),
    [(8, 0.125, 1), (32, 0.125, 4), (32, 0.0, 1), (10, 0.7, 7), (1, 1.0, 1), (9, 0.125, 2), (32, 1 / 32, 1)],
)
def test_needed_successes(rollouts: int, threshold: float, needed: int) -> None:
    assert needed_successes(rollouts, threshold) == needed


def test_default_prior_is_arcsine() -> None:
    prior = default_prior()
    assert prior.sum() == pytest.approx(1) and (prior > 0).all()
    assert (prior * GRID).sum() == pytest.approx(0.5, abs=0.01)
    # Beta(1/2, 1/2) has half of its mass outside (0.1464, 0.8536).
    inside = prior[(GRID > 0.1464) & (GRID < 0.8536)].sum()
    assert inside == pytest.approx(0.5, abs=0.03)


def test_posterior_by_hand() -> None:
    prior = mixture((1, 0.1), (1, 0.5))
    found = posterior(prior, 2, 1)
    # 0.1 * 0.9 = 0.09 against 0.5 * 0.5 = 0.25.
    assert found[np.abs(GRID - 0.5).argmin()] == pytest.approx(0.25 / 0.34)
    assert likelihood(3, 0)[0] == 1 and likelihood(0, 0)[-1] == 1
    impossible = posterior(at(0.0), 1, 1)
    assert (impossible == at(0.0)).all()


def test_a_fit_finds_the_mixture() -> None:
    source = np.random.default_rng(1)
    rates = source.choice([0.0, 0.3, 0.9], p=[0.5, 0.3, 0.2], size=2_000)
    counts = [(32, int(source.binomial(32, rate))) for rate in rates]
    fitted = fit_prior(counts, default_prior(), 4.0)
    assert fitted.sum() == pytest.approx(1)
    assert fitted[GRID <= 0.02].sum() == pytest.approx(0.5, abs=0.03)
    assert fitted[(GRID > 0.15) & (GRID < 0.5)].sum() == pytest.approx(0.3, abs=0.03)
    assert fitted[GRID > 0.75].sum() == pytest.approx(0.2, abs=0.03)
    assert (fit_prior([], default_prior(), 4.0) == default_prior()).all()


def test_a_fit_is_not_misled_by_where_counts_stopped() -> None:
    """Half stop at the first success: a mean of fractions would say 0.5 and more."""
    source = random.Random(2)
    counts = []
    for _ in range(3_000):
        drawn = successes = 0
        while drawn < 32 and not successes:
            drawn += 1
            successes += source.random() < 0.2
        counts.append((drawn, successes))
    fitted = fit_prior(counts, default_prior(), 4.0)
    assert (fitted * GRID).sum() == pytest.approx(0.2, abs=0.02)
    assert sum(successes / drawn for drawn, successes in counts) / 3_000 > 0.35


# --- rules ---------------------------------------------------------------------------------------------


def enumerate_rule(rule: Rule, rate: float) -> tuple[float, float]:
    """Agreement and roll-outs by trying every sequence of outcomes."""
    count, needed = rule.design.rollouts, rule.design.needed
    agreement = drawn = 0.0
    for row in product((False, True), repeat=count):
        chance = float(np.prod([rate if right else 1 - rate for right in row]))
        verdict, taken = rule.verdict(row)
        assert verdict.stop
        agreement += chance * (verdict.right == (sum(row) >= needed))
        drawn += chance * taken
    return agreement, drawn


@pytest.mark.parametrize("wave", [1, 2, 3, 10])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_expectation_is_what_enumeration_gives(wave: int, rate: float) -> None:
    design = Design(10, 2, wave)
    for rule in (
        priced_rule(design, default_prior(), 0.01),
        priced_rule(design, default_prior(), 0.1),
        certainty_rule(design, default_prior()),
    ):
        found = expectation(rule, at(rate))
        assert (found.agreement, found.rollouts) == pytest.approx(enumerate_rule(rule, rate))


def test_independent_agreement_by_hand() -> None:
    design = Design(2, 1, 1)
    whole = every_rollout(design, default_prior())
    # P(right) = 1 - 0.5^2 = 3/4; two such labels agree with 9/16 + 1/16.
    found = expectation(whole, at(0.5))
    assert found.agreement == pytest.approx(1) and found.rollouts == pytest.approx(2)
    assert found.independent == pytest.approx(10 / 16) == fixed_expectation(design, at(0.5))


@settings(deadline=None, max_examples=15)
@given(distributions(), st.integers(1, 5), st.integers(1, 4))
def test_certainty_never_errs(rates: Weights, needed: int, wave: int) -> None:
    found = expectation(certainty_rule(Design(12, needed, wave), default_prior()), rates)
    assert found.agreement == pytest.approx(1)
    assert found.rollouts <= 12 + 1e-9


@settings(deadline=None, max_examples=15)
@given(distributions(), st.integers(1, 4), st.floats(1e-4, 0.2))
def test_no_other_rule_is_cheaper_at_its_price(rates: Weights, needed: int, price: float) -> None:
    """Backward induction against rules at other prices and certainty: none has a lower total cost."""
    design = Design(16, needed, 4)

    def cost(rule: Rule) -> float:
        found = expectation(rule, rates)
        return 1 - found.agreement + price * found.rollouts

    best = cost(priced_rule(design, rates, price))
    others = [priced_rule(design, rates, price * factor) for factor in (0.1, 0.5, 2, 10)]
    others += [priced_rule(design, default_prior(), price), certainty_rule(design, rates)]
    assert all(best <= cost(rule) + 1e-9 for rule in others)


@settings(deadline=None, max_examples=6)
@given(distributions(), distributions(), st.integers(1, 6), st.sampled_from([0.9, 0.97, 1.0]))
def test_calibrated_rules_keep_their_word(
    some: Weights, others: Weights, needed: int, agreement: float
) -> None:
    design = Design(24, needed, 4)
    priors, shares = {"a": some, "b": others}, {"a": 3.0, "b": 1.0}
    rules = calibrated_rules(design, priors, shares, agreement)
    figures = {name: expectation(rules[name], priors[name]) for name in priors}
    mean = (3 * figures["a"].agreement + figures["b"].agreement) / 4
    assert mean >= agreement - 1e-9
    certain = expectation(certainty_rule(design, some), some).rollouts
    assert figures["a"].rollouts <= certain + 1e-9
    assert agreement < 1 or figures["a"].rollouts == pytest.approx(certain)


@pytest.mark.parametrize("spend", [0.0, 0.25, 0.5, 1.0])
def test_what_may_be_spent_is_spent_on_agreement(spend: float) -> None:
    design = Design(32, 4, 1, 4)
    rates = default_prior()
    rule = calibrated_rules(design, {"a": rates}, {"a": 1.0}, 0.9, spend)["a"]
    found = expectation(rule, rates)
    certain = expectation(certainty_rule(design, rates), rates)
    assert found.rollouts >= min(32 * spend, certain.rollouts) - 0.1
    free = expectation(calibrated_rules(design, {"a": rates}, {"a": 1.0}, 0.9)["a"], rates)
    assert found.agreement >= free.agreement >= 0.9
    assert spend > 0 or found == free


@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), max_size=12), st.integers(1, 4))
def test_more_outcomes_do_not_change_a_stop(row: list[bool], wave: int) -> None:
    rule = priced_rule(Design(12, 2, wave), default_prior(), 0.02)
    verdict, taken = rule.verdict(row)
    assert taken <= len(row)
    if verdict.stop:
        assert rule.verdict([*row, True, False]) == (verdict, taken) == rule.verdict(row[:taken])
    else:
        assert len(row) - taken < wave


def test_what_no_outcome_could_make_the_last_is_drawn_together() -> None:
    design = Design(8, 3, 1, 2)
    assert design.levels == [0, 2, 3, 4, 5, 6, 7, 8]
    rule = certainty_rule(design, default_prior())
    # Three successes, or six failures, at the soonest.
    assert rule.next_stop(0, 0) == 3
    assert rule.next_stop(3, 2) == 4
    assert rule.next_stop(4, 1) == 6
    assert rule.next_stop(5, 0) == 6
    assert every_rollout(design, default_prior()).next_stop(0, 0) == 8


def test_the_first_success_settles_any_of_eight() -> None:
    rule = certainty_rule(Design(8, 1, 1), default_prior())
    assert rule.verdict([False, True]) == ((True, True), 2)
    assert rule.verdict([False] * 7) == ((False, False), 7)
    assert rule.verdict([False] * 8) == ((True, False), 8)


def binomial_tail(count: int, rate: float, least: int) -> float:
    return sum(comb(count, x) * rate**x * (1 - rate) ** (count - x) for x in range(least, count + 1))


# Success rates after right steps, and after wrong ones, of models from weak to strong.
STRONG = mixture((0.3, 0.0), (0.1, 0.02), (0.2, 0.7), (0.2, 0.9), (0.2, 0.98))
MIDDLE = mixture((0.4, 0.0), (0.1, 0.02), (0.1, 0.05), (0.2, 0.4), (0.2, 0.7))
WEAK = mixture((0.5, 0.0), (0.15, 0.02), (0.1, 0.05), (0.15, 0.3), (0.1, 0.5))
HOPELESS = mixture((0.8, 0.0), (0.15, 0.02), (0.05, 0.3))
EASY = mixture((0.05, 0.0), (0.25, 0.8), (0.7, 0.98))
FLAT = default_prior() * 0 + 1 / len(GRID)


@pytest.mark.parametrize("rates", [STRONG, MIDDLE, WEAK, HOPELESS, EASY, FLAT])
def test_the_default_rule_agrees_at_less_than_two_fifths(rates: Weights) -> None:
    design = Design(32, needed_successes(32, 0.125), 1, 4)
    rule = calibrated_rules(design, {"a": rates}, {"a": 1.0}, 0.96)["a"]
    found = expectation(rule, rates)
    assert found.agreement >= 0.96 and found.rollouts <= 0.4 * 32
    # As good as a second full label, but for two points.
    assert found.independent >= fixed_expectation(design, rates) - 0.03


def test_any_of_32_is_a_label_of_chance_where_successes_are_rare() -> None:
    """Why the threshold is not 1/32: rates near 0.02 are common after an error."""
    right = binomial_tail(32, 0.02, 1)
    assert right == pytest.approx(0.476, abs=1e-3)
    assert fixed_expectation(Design(32, 1, 4), at(0.02)) == pytest.approx(0.501, abs=1e-3)
    assert fixed_expectation(Design(32, 4, 4), at(0.02)) > 0.99
