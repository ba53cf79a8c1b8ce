"""Rounds of a run: what the prefixes of earlier rounds taught decides when those of the next one stop.

The first round, the pilot, goes on with every prefix until nothing can change its label; each later round is
as large as all before it, and its rules are fitted to them. A share of prefixes of later rounds, drawn by a
hash, goes on like the pilot's: a rule that always stops after four failures would never see that it is wrong.
That share also measures, on the user's own data, how often adaptive labels agree with full ones.

Everything follows from outcomes and identities: order of arrival, number of workers and kills do not matter.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kit.steps.labels import CONTEXTS, Ask, Row, Rules, Search, StepLabel, label_trace
from kit.steps.prior import GRID, Weights, default_prior, fit_prior, posterior
from kit.steps.stopping import Design, Rule, calibrated_rules, certainty_rule, every_rollout, expectation

POOLED_STRENGTH = 4.0
"""Prefixes that the prior before any data weighs as much as."""
CONTEXT_STRENGTH = 8.0
"""Prefixes of a context that those of all contexts together weigh as much as."""


@dataclass(frozen=True)
class Outline:
    """What decisions need to know of a trace.

    Args:
        keys: of its prefixes, one a step but the last.
        own: whether its own answer is right.
    """

    keys: tuple[str, ...]
    own: bool

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.keys) + 1


@dataclass(frozen=True)
class Policy:
    """How a run decides.

    Args:
        design: of its rules.
        adaptive: whether to stop before the last roll-out.
        agreement: wanted share of labels that agree with those of all roll-outs.
        spend: share of all roll-outs that is drawn even where fewer seem to do.
        pilot: prefixes of the first round, at least.
        audit: share of later prefixes that go on until they are certain.
        search: which steps are looked at.
    """

    design: Design
    adaptive: bool
    agreement: float
    spend: float
    pilot: int
    audit: float
    search: Search

    def rounds(self, outlines: Sequence[Outline]) -> list[range]:
        """Indices of each round's traces, in order."""
        if not self.adaptive:
            return [range(len(outlines))]
        found, begin, held, wanted = [], 0, 0, self.pilot
        for index, outline in enumerate(outlines):
            held += len(outline.keys)
            if held >= wanted:
                found.append(range(begin, index + 1))
                begin, wanted = index + 1, 2 * held
        return [*found, range(begin, len(outlines))] if begin < len(outlines) else found

    def first_rules(self) -> "RoundRules":
        """Of the pilot; without adaptive stops, of the whole run."""
        prior = default_prior()
        make = certainty_rule if self.adaptive else every_rollout
        rule = make(self.design, prior)
        return RoundRules(
            dict.fromkeys(CONTEXTS, rule),
            rule,
            dict.fromkeys(CONTEXTS, prior),
            dict.fromkeys(CONTEXTS, 1.0),
            0.0,
        )

    def fitted_rules(self, labels: Iterable[StepLabel]) -> "RoundRules":
        """Of a round after those that gave these labels."""
        counts: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for label in labels:
            if label.rollouts:
                counts[label.context].append((label.rollouts, label.successes))
        pooled = fit_prior(
            [pair for some in counts.values() for pair in some], default_prior(), POOLED_STRENGTH
        )
        priors = {context: fit_prior(counts[context], pooled, CONTEXT_STRENGTH) for context in CONTEXTS}
        shares = {context: len(counts[context]) + 1e-3 for context in CONTEXTS}
        adaptive = calibrated_rules(self.design, priors, shares, self.agreement, self.spend)
        return RoundRules(adaptive, certainty_rule(self.design, pooled), priors, shares, self.audit)


@dataclass(frozen=True)
class RoundRules:
    """Rules and priors of one round."""

    adaptive: Mapping[str, Rule]
    certain: Rule
    priors: Mapping[str, Weights]
    shares: Mapping[str, float]
    """How often each context occurred, on any scale."""
    audit: float

    def label(
        self, outline: Outline, outcomes: Callable[[str], Row], search: Search
    ) -> Ask | list[StepLabel]:
        """Labels of a trace of this round, or what to draw next."""

        def audited(step: int) -> bool:
            return is_audited(outline.keys[step], self.audit)

        rules = Rules(self.adaptive, self.certain, audited)
        return label_trace(
            lambda step: outcomes(outline.keys[step]), outline.steps, outline.own, rules, search
        )

    def expected(self) -> tuple[float, float]:
        """Roll-outs that a prefix is expected to take under these priors: adaptive, and until certain."""
        total = sum(self.shares.values())
        adaptive = certain = 0.0
        for context, rule in self.adaptive.items():
            share, prior = self.shares[context] / total, self.priors[context]
            adaptive += share * expectation(rule, prior).rollouts
            certain += share * expectation(self.certain, prior).rollouts
        return adaptive, certain

    def estimate(self, label: StepLabel) -> float:
        """Posterior mean of the success rate: a fraction of roll-outs that stopped at will is biased."""
        if not label.rollouts:
            return float(label.right)
        weights = posterior(self.priors[label.context], label.rollouts, label.successes)
        return float((weights * GRID).sum())


def is_audited(key: str, share: float) -> bool:
    """Whether the prefix of this key is one of the share that goes on until it is certain."""
    digest = hashlib.sha256(f"audit/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
