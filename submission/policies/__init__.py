"""When to stop, when to draw more: policies for one problem, as pure functions behind one signature.

A policy is a `Policy`: `Situation -> Decision`. It has no memory, clock, randomness or I/O, so that a solver
and a replay may ask as often as they like. The solver asks

- when the problem begins (nothing finished, nothing running): the decision starts the first attempts;
- whenever an attempt ends, well or not: a failed one is a `Candidate` without an answer;
- when a timer fires, every few seconds: some policies judge attempts that are still under way;
- when the deadline passes (`seconds_left` 0), which every policy answers with a stop;

and does what the decision says, in this order:

1. `stop`: abort what runs; the problem is over, `stop` is the reason, `answer` what the policy would give.
2. `abort`: cut off these attempts (they count as `aborted` from then on).
3. `run`: start so many attempts; policies never ask for more than `situation.free`, aborted ones apart.
4. `verify`: ask the verifier, set `verifier_seconds` to infinity, ask the policy again.
5. none of these: wait. A policy never waits with nothing running.

`with_second_opinion` makes any policy ask the verifier where it would stop with the votes split; `ours`
weighs that by itself, by the same rule.
"""

from submission.policies.adaptive_consistency import adaptive_consistency
from submission.policies.deepconf import deepconf
from submission.policies.first_agree import first_agree
from submission.policies.fixed import fixed
from submission.policies.ours import ours
from submission.policies.second_opinion import with_second_opinion
from submission.policies.situation import Decision, Policy, Running, Situation
from submission.policies.uncatchable import uncatchable

__all__ = [
    "Decision",
    "Policy",
    "Running",
    "Situation",
    "adaptive_consistency",
    "deepconf",
    "first_agree",
    "fixed",
    "ours",
    "uncatchable",
    "with_second_opinion",
]
