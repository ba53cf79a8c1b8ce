"""Stop when enough attempts agree: what the strongest AIMO 3 entries did (4 of 8)."""

from submission.policies.situation import Decision, Policy, Situation, ended, keep_running, tally


def first_agree(agree: int) -> Policy:
    """Draw all attempts side by side until one answer has `agree` votes.

    Raises:
        ValueError: `agree` below 1.
    """
    if agree < 1:
        raise ValueError(f"agree is {agree}; it must be at least 1")

    def decide(situation: Situation) -> Decision:
        ranked = tally(situation)
        if ranked and ranked[0][1] >= agree:
            return Decision(stop="agree", answer=ranked[0][0])
        return ended(situation) or keep_running(situation, situation.concurrency)

    return decide
