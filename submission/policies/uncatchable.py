"""Stop when the leader can no longer be caught: the majority of all attempts, at less than its price."""

from submission.policies.situation import Decision, Situation, ended, keep_running, tally


def uncatchable(situation: Situation) -> Decision:
    """Draw all attempts side by side until the runner-up would stay behind with every open vote."""
    ranked = tally(situation)
    first = ranked[0][1] if ranked else 0
    second = ranked[1][1] if len(ranked) > 1 else 0
    if first > second + len(situation.running) + situation.unstarted:
        return Decision(stop="uncatchable", answer=ranked[0][0])
    return ended(situation) or keep_running(situation, situation.concurrency)
