"""The policy that the settings name, and what keeps a policy that breaks from costing the problem."""

import logging

from submission.policies import (
    Decision,
    Policy,
    Situation,
    adaptive_consistency,
    deepconf,
    first_agree,
    fixed,
    ours,
    uncatchable,
    with_second_opinion,
)
from submission.policies.situation import ended
from submission.settings import SolverSettings

log = logging.getLogger(__name__)


def make_policy(settings: SolverSettings) -> Policy:
    """The policy of `solver.policy`; each of them has the team's verifiers and selectors asked alike."""
    return guarded(with_second_opinion(_sampling(settings)))


def _sampling(settings: SolverSettings) -> Policy:
    """When to stop drawing samples."""
    if settings.policy == "value":
        return ours
    if settings.policy == "adaptive":
        return adaptive_consistency()
    if settings.policy == "deepconf":
        return deepconf()
    if settings.policy == "fixed":
        return fixed(settings.attempts)
    return agreeing(settings.agree)


def agreeing(agree: int | None) -> Policy:
    """The rule of the strongest AIMO 3 entries: stop at `agree` equal votes, or when the leader is safe."""
    first = first_agree(agree) if agree is not None else None

    def decide(situation: Situation) -> Decision:
        if first is not None and (decision := first(situation)).stop:
            return decision
        return ended(situation) or uncatchable(situation)

    return decide


def guarded(policy: Policy) -> Policy:
    """The policy; where it raises, the plain rule: all attempts, then the vote."""

    def decide(situation: Situation) -> Decision:
        try:
            return policy(situation)
        except Exception:
            log.exception("the policy failed on %r", situation)
            return fixed(situation.max_attempts)(situation)

    return decide
