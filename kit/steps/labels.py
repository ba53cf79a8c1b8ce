"""A trace's labels out of its roll-outs' outcomes: what is known, or what to draw next. Pure.

Every step but the last is judged by roll-outs from the prefix that ends with it; the last by the trace's own
answer (Math-Shepherd, Wang et al. 2024). `search = "all"` looks at every step; `"first_error"` takes for
granted that steps are right before the first error and wrong from it on, finds it by bisection, and calls a
trace with a right answer right throughout (OmegaPRM, Luo et al. 2024).

What is decided follows from the outcomes alone, in order of roll-out number, whenever they came. So a run
that was killed takes the same decisions again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from kit.steps.stopping import Rule

Search = Literal["all", "first_error"]
Row = Mapping[int, bool]
"""Of one prefix: roll-out number to whether its answer was right."""
BEFORE = ("start", "never", "seldom", "sometimes", "often")
CONTEXTS = tuple(f"{before}/{own}" for before in BEFORE for own in ("right", "wrong"))
"""What is known before a prefix is looked at: how often the prefix before it was right, and the trace's own
answer. Along a trace success rates move little, but for errors: on average not at all (a martingale)."""


class Ask(NamedTuple):
    """Roll-outs to draw before more can be said."""

    step: int
    rollouts: range


@dataclass(frozen=True)
class StepLabel:
    """One step.

    Args:
        right: the hard label.
        rollouts: that it rests on; 0 where it follows from the trace's answer or from other steps.
        successes: among them.
        context: what was known before; empty without roll-outs.
        audit: None, or whether the adaptive rule would have given the same label.
    """

    right: bool
    rollouts: int = 0
    successes: int = 0
    context: str = ""
    audit: bool | None = None


@dataclass(frozen=True)
class Rules:
    """How prefixes are judged.

    Args:
        adaptive: the rule of each context.
        certain: the rule of audited prefixes, which goes on until nothing can change the label.
        audited: whether a step (by index) is one of these.
    """

    adaptive: Mapping[str, Rule]
    certain: Rule
    audited: Callable[[int], bool] = field(default=lambda _: False)


def label_trace(
    outcomes: Callable[[int], Row], steps: int, own: bool, rules: Rules, search: Search
) -> Ask | list[StepLabel]:
    """The labels of a trace, or what to draw next.

    Args:
        outcomes: of the prefix that ends with a step.
        steps: how many there are, at least 1.
        own: whether the trace's own answer is right.
        rules: of this trace's round.
        search: which steps are looked at.
    """
    if search == "first_error":
        return _bisect(outcomes, steps, own, rules)
    labels: list[StepLabel] = []
    before = "start"
    for step in range(steps - 1):
        found = _judge(step, outcomes(step), _context(before, own), rules)
        if isinstance(found, Ask):
            return found
        labels.append(found)
        before = _how_often(found)
    return [*labels, StepLabel(own)]


def _bisect(outcomes: Callable[[int], Row], steps: int, own: bool, rules: Rules) -> Ask | list[StepLabel]:
    if own:
        return [StepLabel(True)] * steps
    seen: dict[int, StepLabel] = {}
    first, last = 0, steps - 1  # the first error is one of these
    before = "start"
    while first < last:
        middle = (first + last) // 2
        found = _judge(middle, outcomes(middle), _context(before, own), rules)
        if isinstance(found, Ask):
            return found
        seen[middle] = found
        if found.right:
            first, before = middle + 1, _how_often(found)
        else:
            last = middle
    return [seen.get(step, StepLabel(step < first)) for step in range(steps)]


def bisection_tests(steps: int) -> int:
    """Prefixes that a bisection of a wrong trace looks at, at most."""
    return (steps - 1).bit_length()


def first_error(labels: list[bool]) -> int:
    """Index of the first wrong step, -1 if there is none."""
    return labels.index(False) if False in labels else -1


def _how_often(label: StepLabel) -> str:
    """What a label says of the prefix after it."""
    if label.right:
        return "often" if 2 * label.successes >= label.rollouts else "sometimes"
    return "seldom" if label.successes else "never"


def _context(before: str, own: bool) -> str:
    return f"{before}/{'right' if own else 'wrong'}"


def _judge(step: int, outcomes: Row, context: str, rules: Rules) -> Ask | StepLabel:
    adaptive = rules.adaptive[context]
    audited = rules.audited(step)
    rule = rules.certain if audited else adaptive
    row: list[bool] = []
    while len(row) in outcomes:
        row.append(outcomes[len(row)])
    verdict, taken = rule.verdict(row)
    if not verdict.stop:
        return Ask(step, range(taken, rule.next_stop(taken, sum(row[:taken]))))
    same = adaptive.verdict(row)[0].right == verdict.right if audited else None
    return StepLabel(verdict.right, taken, sum(row[:taken]), context, same)
