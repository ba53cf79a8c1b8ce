"""A second opinion: at any policy's stop, the verifiers and selectors, where votes are split and it pays.

A policy says when further samples are not worth their time. Where answers compete then, reading what was
written may still be worth it: it wins `VERIFIER_SKILL` of the chance that the runner-up is right, its share
of the attempts, and costs its seconds at the ledger's price. So the time that problems with early agreement
leave, which lowers the price, goes to the split ones; where time is poor, by the price or by this problem's
own allowance, nobody is asked.

A narrow agreement is a split vote too: on two recordings, where four had agreed against three, those three
were right more often than the runner-up of any other split. Whether opinions can change the answer at all
is the solver's to say (`submission.solving.choosing.swayable`): `verifier_seconds` is infinite where not.
"""

import math

from submission.policies.situation import Decision, Policy, Situation, tally

VERIFIER_SKILL = 0.1
"""Share of the runner-up's chance that asking a verifier wins: little, until one is calibrated."""


def with_second_opinion(policy: Policy) -> Policy:
    """The policy; where it stops and `worth_asking` says so, the verifier is asked before.

    Where there is nobody to ask (`verifier_seconds` infinite) its decisions are the policy's own.
    """

    def decide(situation: Situation) -> Decision:
        decision = policy(situation)
        return Decision(verify=True) if decision.stop and worth_asking(situation) else decision

    return decide


def worth_asking(situation: Situation) -> bool:
    """Whether answers compete, the verifier has time before the deadline, and it is expected to win more
    right answers than its seconds are worth elsewhere; without a price they are worth nothing.
    """
    votes = [count for _, count in tally(situation)]
    seconds, left = situation.verifier_seconds, situation.seconds_left
    if len(votes) < 2 or math.isinf(seconds) or left <= 0 or seconds > left:
        return False
    price = 0.0 if math.isnan(situation.price) else situation.price
    return VERIFIER_SKILL * votes[1] / len(situation.finished) > price * seconds
