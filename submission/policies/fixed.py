"""A fixed number of attempts, then the majority (Wang et al. 2022, "Self-Consistency")."""

from submission.policies.situation import Decision, Policy, Situation, ended, keep_running, plurality


def fixed(count: int) -> Policy:
    """Draw `count` attempts, all of them side by side if the machine allows.

    Raises:
        ValueError: `count` below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")

    def decide(situation: Situation) -> Decision:
        done = ended(situation)
        if done:
            return done
        missing = count - len(situation.finished) - len(situation.running) - situation.aborted
        if missing <= 0 and not situation.running:
            return Decision(stop="all finished", answer=plurality(situation))
        return keep_running(situation, len(situation.running) + max(missing, 0))

    return decide
