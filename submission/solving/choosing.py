"""From the samples of a problem, the scores and the opinions to one answer, as a pure function."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from submission.agents.team import Team
from submission.selection.candidate import Candidate
from submission.selection.rule import LEAST_KNOWN, PLAIN, Rule, known_share, prm_scores, ranked, weights
from submission.selection.voting import Standing, standings
from submission.solving.sample import Opinion


@dataclass(frozen=True)
class Choice:
    """What is answered and why.

    Args:
        answer: None where no candidate has one.
        plain: the plain vote's.
        votes: (answer, count) of the plain vote.
        totals: (answer, total) under the rule and with the opinions, the chosen one first.
        rule: what decided.
        prm_means: mean aggregated PRM score of each answer.
    """

    answer: int | None
    plain: int | None
    votes: tuple[tuple[int, int], ...]
    totals: tuple[tuple[int, float], ...]
    rule: str
    prm_means: dict[int, float]


def choose(
    candidates: Sequence[Candidate], rule: Rule, opinions: Sequence[Opinion] = (), opinion_votes: float = 1.0
) -> Choice:
    """Choose an answer.

    Args:
        candidates: in order of arrival; answers are integers or None.
        rule: from a calibration that was shown to help, else the plain vote (`submission.selection`).
        opinions: a selector's pick is worth `opinion_votes` candidates of mean weight; so is a unanimous
            verification of an answer, a divided one in proportion. A verifier that says no adds nothing.
        opinion_votes: 0 leaves the vote as it is, and so does a best-of-N rule, which has no votes to add to.
    """
    plain = ranked(candidates)
    found = ranked(candidates, rule)
    extra = {} if rule.method == "best_of_n" else _extra(opinions, opinion_votes)
    said = str(rule) if rule != PLAIN else "majority"
    if extra:
        found = _with_opinions(candidates, rule, extra)
        said += f" with {len(opinions)} opinions"
    return Choice(
        answer=_integer(found),
        plain=_integer(plain),
        votes=tuple((_answer(one), one.count) for one in plain),
        totals=tuple((_answer(one), one.total) for one in found),
        rule=said,
        prm_means=_prm_means(candidates, rule),
    )


def undecided(
    candidates: Sequence[Candidate], rule: Rule, opinions: Sequence[Opinion] = (), opinion_votes: float = 1.0
) -> bool:
    """Whether step scores could change the answer: each in turn is given the best, the others the worst."""
    chosen = set()
    for answer in {one.answer for one in candidates if one.answer is not None}:
        scored = [replace(one, steps=(1.0 if one.answer == answer else 0.0,)) for one in candidates]
        chosen.add(choose(scored, rule, opinions, opinion_votes).answer)
    return len(chosen) > 1


def swayable(
    candidates: Sequence[Candidate], rule: Rule, looked: Sequence[int], team: Team, opinion_votes: float = 1.0
) -> bool:
    """Whether the team's opinions could change the answer: all of them are for each in turn.

    Args:
        candidates: as `choose` takes them; steps that are not scored yet may still tip what is close.
        rule: with which they are chosen.
        looked: the answers that are to be looked at.
        team: each of its verifiers and selectors counts by its share.
        opinion_votes: as `choose` takes it.
    """
    alone = choose(candidates, rule).answer
    return any(
        choose(candidates, rule, _unanimous(team, answer), opinion_votes).answer != alone for answer in looked
    )


def _unanimous(team: Team, answer: int) -> list[Opinion]:
    """All verifiers confirm this answer and no other; all selectors pick it."""
    verdicts = [Opinion(role.name, "verify", answer, True, 0, 0.0) for role in team.of("verify")]
    picks = [
        Opinion(role.name, "select", answer, True, 0, 0.0)
        for role in team.of("select")
        for _ in range(role.share)
    ]
    return verdicts + picks


def _extra(opinions: Sequence[Opinion], votes: float) -> dict[int, float]:
    """Votes that the opinions add to each answer."""
    extra: dict[int, float] = defaultdict(float)
    said: dict[int, list[bool]] = defaultdict(list)
    for opinion in opinions:
        if opinion.answer is None or opinion.right is None:
            continue
        if opinion.task == "select":
            extra[opinion.answer] += votes
        else:
            said[opinion.answer].append(opinion.right)
    for answer, verdicts in said.items():
        extra[answer] += votes * sum(verdicts) / len(verdicts)
    return {answer: value for answer, value in extra.items() if value > 0}


def _with_opinions(candidates: Sequence[Candidate], rule: Rule, extra: dict[int, float]) -> list[Standing]:
    answers = [one.answer for one in candidates]
    known = known_share(candidates, rule.method) >= LEAST_KNOWN
    base = weights(candidates, rule) if known else [1.0] * len(candidates)
    voting = [weight for answer, weight in zip(answers, base, strict=True) if answer is not None]
    mean = math.fsum(voting) / len(voting) if voting else 1.0
    return standings([*answers, *extra], [*base, *(votes * mean for votes in extra.values())])


def _prm_means(candidates: Sequence[Candidate], rule: Rule) -> dict[int, float]:
    scores: dict[int, list[float]] = defaultdict(list)
    for candidate, score in zip(candidates, prm_scores(candidates, rule.aggregate), strict=True):
        if isinstance(candidate.answer, int) and math.isfinite(score):
            scores[candidate.answer].append(score)
    return {answer: math.fsum(values) / len(values) for answer, values in scores.items()}


def _integer(found: Sequence[Standing]) -> int | None:
    return _answer(found[0]) if found else None


def _answer(standing: Standing) -> int:
    assert isinstance(standing.answer, int), "answers of a contest are integers"
    return standing.answer
