"""One way to choose an answer: a method with its parameters."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from submission.prm.aggregate import Aggregate, aggregate
from submission.selection.candidate import Candidate
from submission.selection.voting import Standing, best_of_n, majority, standings
from submission.selection.weights import (
    LEAST_TEMPERATURE,
    entropy_weights,
    length_weights,
    logprob_weights,
    prm_weights,
)

Method = Literal["majority", "prm", "best_of_n", "logprob", "entropy", "length"]

LEAST_KNOWN = 0.5
"""Share of the answering candidates that a method must know something of, or the plain vote is taken."""


class Rule(BaseModel):
    """How one answer is chosen; `Rule()` is the plain vote.

    Args:
        method: "majority" (the plain vote), "prm", "logprob", "entropy", "length" (votes with these weights),
            or "best_of_n" (the candidate of the best PRM score).
        aggregate: how the scores of the steps become one; of "prm" and "best_of_n".
        temperature: of the weights; the lower, the more the best candidate counts.
        blend: share of the method in a weight, the rest being the plain vote's 1.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    method: Method = "majority"
    aggregate: Aggregate = "min"
    temperature: Annotated[float, Field(ge=LEAST_TEMPERATURE, le=1e6)] = 1.0
    blend: Annotated[float, Field(ge=0, le=1)] = 1.0

    def __str__(self) -> str:
        if self.method == "majority":
            return "majority"
        parts: list[str] = [self.aggregate] if self.method in ("prm", "best_of_n") else []
        if self.method != "best_of_n":
            parts += [f"T {self.temperature:g}", f"blend {self.blend:g}"]
        return f"{self.method} ({', '.join(parts)})"


PLAIN = Rule()
"""The plain vote."""


def prm_scores(candidates: Sequence[Candidate], how: Aggregate) -> list[float]:
    """The aggregated step scores, NaN for a candidate without."""
    return [aggregate(one.steps, how) for one in candidates]


def known_share(candidates: Sequence[Candidate], method: Method) -> float:
    """Share of the candidates with an answer of which the method has something to go by; 0 without any."""
    voting = [one for one in candidates if one.answer is not None]
    return sum(_is_known(one, method) for one in voting) / len(voting) if voting else 0.0


def _is_known(candidate: Candidate, method: Method) -> bool:
    if method in ("prm", "best_of_n"):
        return bool(candidate.steps) and all(map(math.isfinite, candidate.steps))
    if method == "logprob":
        return math.isfinite(candidate.logprob) and candidate.tokens > 0
    if method == "entropy":
        return math.isfinite(candidate.entropy)
    return method == "majority" or candidate.tokens > 0


def weights(candidates: Sequence[Candidate], rule: Rule) -> list[float]:
    """The rule's weight of each candidate, 0 to 1, always finite; 1 for "best_of_n", which has none."""
    if rule.method == "prm":
        return prm_weights(prm_scores(candidates, rule.aggregate), rule.temperature, rule.blend)
    if rule.method == "logprob":
        found = logprob_weights(candidates, rule.temperature)
    elif rule.method == "entropy":
        found = entropy_weights(candidates, rule.temperature)
    elif rule.method == "length":
        found = length_weights(candidates, rule.temperature)
    else:
        return [1.0] * len(candidates)
    return [(1 - rule.blend) + rule.blend * weight for weight in found]


def ranked(candidates: Sequence[Candidate], rule: Rule = PLAIN) -> list[Standing]:
    """Every answer, the chosen one first; empty where no candidate has one.

    The plain vote is taken where the rule knows nothing of over half of the candidates that answer, such as
    when the time was out before they were scored: the few that are known would decide alone.
    """
    answers = [one.answer for one in candidates]
    if rule.method == "majority" or known_share(candidates, rule.method) < LEAST_KNOWN:
        return majority(answers)
    if rule.method == "best_of_n":
        return best_of_n(answers, prm_scores(candidates, rule.aggregate))
    return standings(answers, weights(candidates, rule))
