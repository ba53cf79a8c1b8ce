"""All labels of a run from its outcomes, round by round."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kit.steps.labels import Ask, StepLabel
from kit.steps.outcomes import Outcomes
from kit.steps.rounds import Outline, Policy, RoundRules


@dataclass
class Replay:
    """How far the outcomes carry.

    Args:
        rules: of the last round that has any; those of the next one need all labels of this one.
        labels: by index of the trace.
        rules_of: the rules of each labelled trace's round.
        open_round: the first round that is not labelled whole; None if all are.
    """

    rules: RoundRules
    labels: dict[int, list[StepLabel]] = field(default_factory=dict)
    rules_of: dict[int, RoundRules] = field(default_factory=dict)
    open_round: int | None = None


def replay(
    policy: Policy, outlines: Sequence[Outline], outcomes: Outcomes, before: Replay | None = None
) -> Replay:
    """Label round after round until one is not whole.

    Time: the roll-outs, and some milliseconds a round for its rules.

    Args:
        before: of an earlier state of the same outcomes, taken up where it ended. Labels of whole rounds, and
            so the rules after them, never change.
    """
    found = before or Replay(policy.first_rules(), open_round=0)
    rounds = policy.rounds(outlines)
    while found.open_round is not None:
        indices = rounds[found.open_round] if rounds else range(0)
        if not label_round(policy, outlines, indices, outcomes, found):
            return found
        found.open_round += 1
        if found.open_round >= len(rounds):
            found.open_round = None
            return found
        found.rules = policy.fitted_rules(
            label for index in range(indices.stop) for label in found.labels[index]
        )
    return found


def label_round(
    policy: Policy, outlines: Sequence[Outline], indices: range, outcomes: Outcomes, found: Replay
) -> bool:
    """Label what can be of one round, by the rules that stand; whether that is all of it."""
    whole = True
    for index in indices:
        labels = found.rules.label(outlines[index], outcomes.of, policy.search)
        if isinstance(labels, Ask):
            whole = False
        else:
            found.labels[index] = labels
            found.rules_of[index] = found.rules
    return whole
