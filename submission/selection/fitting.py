"""Fit of a rule to held-out problems by cross-validation, with an honest answer to whether it helps.

Method, aggregate, temperature and blend are chosen together within each training part, so the held-out gain
pays for every choice. The choice is the rule that is right most often; of equals, the one nearest to the
plain vote. Nothing here belongs to the contest: the machine that plays it only reads the result.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import get_args

from submission.prm.aggregate import Aggregate
from submission.selection.calibration import Calibration
from submission.selection.candidate import Candidate
from submission.selection.rule import LEAST_KNOWN, PLAIN, Method, Rule, known_share, ranked
from submission.selection.statistics import mcnemar, mean_interval
from submission.selection.voting import majority

LEVEL = 0.95
REPEATS = 10_000
BLENDS = (0.05, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (4.0, 1.0, 0.5, 0.25, 0.1, 0.03)


@dataclass(frozen=True)
class LabelledProblem:
    """The recorded candidates of one problem.

    Args:
        id: the problem's, unique.
        candidates: in order of arrival.
        right: whether each candidate's answer is right.
    """

    id: str
    candidates: tuple[Candidate, ...]
    right: tuple[bool, ...]

    def __post_init__(self) -> None:
        assert len(self.candidates) == len(self.right), self.id


@dataclass(frozen=True)
class Fit:
    """A calibration with what it was made of.

    Args:
        calibration: the result.
        chosen: whether the rule of the other folds is right, by problem in the order given.
        plain: whether the plain vote is right.
        fold_rules: the rule that each fold was judged with.
    """

    calibration: Calibration
    chosen: tuple[bool, ...]
    plain: tuple[bool, ...]
    fold_rules: tuple[Rule, ...]


def is_right(problem: LabelledProblem, rule: Rule) -> bool:
    """Whether the rule chooses a right answer; none is wrong."""
    standing = ranked(problem.candidates, rule)
    return bool(standing) and problem.right[standing[0].first]


def available(problems: Sequence[LabelledProblem]) -> tuple[Method, ...]:
    """The methods that know something of at least half the candidates, in at least half the problems."""

    def is_known(method: Method) -> bool:
        shares = [known_share(one.candidates, method) for one in problems]
        return 2 * sum(share >= LEAST_KNOWN for share in shares) >= len(shares)

    return tuple(method for method in get_args(Method) if method == "majority" or is_known(method))


def grid(methods: Sequence[Method]) -> list[Rule]:
    """The rules that are tried, the plain vote first, then by method from the mildest to the sharpest."""
    rules = [PLAIN]
    for method in methods:
        aggregates: tuple[Aggregate, ...] = (
            get_args(Aggregate) if method in ("prm", "best_of_n") else ("min",)
        )
        if method == "best_of_n":
            rules += [Rule(method=method, aggregate=how) for how in aggregates]
        elif method != "majority":
            rules += [
                Rule(method=method, aggregate=how, temperature=temperature, blend=blend)
                for blend, temperature, how in itertools.product(BLENDS, TEMPERATURES, aggregates)
            ]
    return rules


def fold_of(ids: Sequence[str], folds: int, seed: int) -> list[int]:
    """The fold of each problem: as equal in size as can be, whatever the order of the problems."""
    shuffled = sorted(ids)
    Random(seed).shuffle(shuffled)
    places = {one: place % folds for place, one in enumerate(shuffled)}
    return [places[one] for one in ids]


def fit(
    problems: Sequence[LabelledProblem],
    *,
    methods: Sequence[Method] | None = None,
    folds: int = 5,
    seed: int = 0,
    level: float = LEVEL,
    repeats: int = REPEATS,
) -> Fit:
    """Choose a rule and tell whether it helps.

    It helps only where the cross-validated gain over the plain vote is clear of zero both ways: the paired
    bootstrap's two-sided interval of `level` (95 %) lies above zero, and McNemar's exact test has
    p < 1 - level. The second guards small sets, where four wins and no loss leave the bootstrap above zero.

    Args:
        problems: held out from every model's training, with different ids.
        methods: which to try; None tries all that the candidates have values for.
        folds: parts of the cross-validation, by problem.
        seed: of the parts and of the bootstrap.
        level: of the interval.
        repeats: bootstrap draws.

    Raises:
        ValueError: fewer problems than folds, fewer than two folds, or an id that stands twice.
    """
    ids = [one.id for one in problems]
    if not 2 <= folds <= len(ids):
        raise ValueError(f"{len(ids)} problems in {folds} folds: at least 2 folds, and a problem for each")
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise ValueError(f"problem {twice!r} stands twice: give every problem one id")
    rules = grid(available(problems) if methods is None else methods)
    table = _outcomes(problems, rules)
    parts = fold_of(ids, folds, seed)
    best = [
        _best([row for row, part in zip(table, parts, strict=True) if part != fold]) for fold in range(folds)
    ]
    chosen = tuple(row[best[part]] for row, part in zip(table, parts, strict=True))
    plain = tuple(row[0] for row in table)
    gains = [float(one) - float(other) for one, other in zip(chosen, plain, strict=True)]
    interval = mean_interval(gains, repeats=repeats, seed=seed, level=level)
    p_value = mcnemar(chosen, plain)
    rule = rules[_best(table)]
    calibration = Calibration(
        method=rule.method,
        parameters=rule,
        helps=rule != PLAIN and interval.low > 0 and p_value < 1 - level,
        gain=interval.mean,
        interval=(interval.low, interval.high),
        level=level,
        p_value=p_value,
        accuracy=sum(chosen) / len(chosen),
        majority=sum(plain) / len(plain),
        problems=len(ids),
        seed=seed,
        folds=folds,
    )
    return Fit(calibration, chosen, plain, tuple(rules[index] for index in best))


def _outcomes(problems: Sequence[LabelledProblem], rules: Sequence[Rule]) -> list[list[bool]]:
    """[problem][rule]: whether the rule is right."""
    table = []
    for problem in problems:
        if len(majority([one.answer for one in problem.candidates])) < 2:
            # One answer, or none: there is nothing to choose.
            table.append([is_right(problem, PLAIN)] * len(rules))
        else:
            table.append([is_right(problem, rule) for rule in rules])
    return table


def _best(table: Sequence[Sequence[bool]]) -> int:
    """Index of the rule that is right most often, the first of equals."""
    totals = [sum(column) for column in zip(*table, strict=True)]
    return totals.index(max(totals))
