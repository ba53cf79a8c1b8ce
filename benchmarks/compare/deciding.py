"""Which run to submit, from one table of right answers each; or that the data cannot tell. Pure.

The best of several was found by looking at all of them, so every pair counts: with m pairs, intervals are
of level 1 - 0.05/m and a difference is told only where its interval is clear of zero and the randomization
test's p is below 0.05/m (Bonferroni). Both are asked: the test holds for however few problems and knows
nothing of what sets whole repeats apart; the interval knows, and has the size of the difference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import TYPE_CHECKING

from benchmarks.compare.permutation import sign_flip_test
from benchmarks.statistics.accuracy import accuracy_interval
from benchmarks.statistics.paired import REPEATS, discordance, least_difference, paired_difference
from benchmarks.statistics.resampling import CELLS
from benchmarks.statistics.twice import TwiceRun, twice_run
from submission.selection.statistics import Interval, mcnemar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ALPHA, POWER = 0.05, 0.8
TAIL = 100
"""Bootstrap draws beyond a pair's interval, at least, if there were no correction for few problems."""
TOLD = 3
"""Contenders that have a sentence of their own."""


@dataclass(frozen=True)
class Pair:
    """The better of two runs above the worse.

    Args:
        better, worse: names; in the order of the runs where both are equally good.
        difference: of accuracies, with the paired bootstrap's interval of level 1 - 0.05/pairs.
        p_value: of `sign_flip_test`.
        mcnemar: p-value of McNemar's exact test on the first repeat of each.
        wins, losses: problems where the better run has the greater, the smaller share of right answers.
        least: smallest difference that these problems and repeats show four times in five; inf where none.
        clear: whether the difference is told from chance.
        needed: about so many problems of this kind would show this difference; None where these are enough,
            or nothing can be said.
    """

    better: str
    worse: str
    difference: Interval
    p_value: float
    mcnemar: float
    wins: int
    losses: int
    least: float
    clear: bool
    needed: int | None


@dataclass(frozen=True)
class Standing:
    """One run's figures on all problems."""

    accuracy: Interval
    twice: TwiceRun


@dataclass(frozen=True)
class Decision:
    """What the runs say together.

    Args:
        order: names from the highest accuracy to the lowest.
        standings: by name.
        pairs: every pair.
        contenders: the best and those that are not clearly worse, best first; one where the data can tell.
        level: of the pairs' intervals.
    """

    order: tuple[str, ...]
    standings: Mapping[str, Standing]
    pairs: tuple[Pair, ...]
    contenders: tuple[str, ...]
    level: float

    @property
    def told(self) -> bool:
        """Whether one run is clearly better than each other."""
        return len(self.contenders) == 1

    def pair(self, first: str, second: str) -> Pair:
        """The two, whichever is better."""
        return next(one for one in self.pairs if {one.better, one.worse} == {first, second})


def decide(tables: "Mapping[str, npt.NDArray[np.float64]]", *, seed: int = 0) -> Decision:
    """Compare every two runs.

    Args:
        tables: two or more of [repeats, problems], 1 for a right answer; the same problems in the same order.
        seed: of every bootstrap and test.

    Raises:
        ValueError: fewer than two tables, or other numbers of problems.
    """
    if len(tables) < 2:
        raise ValueError(f"{len(tables)} runs: a comparison needs two")
    order = tuple(sorted(tables, key=lambda name: -round(float(tables[name].mean()), 12)))
    alpha = ALPHA / math.comb(len(tables), 2)
    pairs = tuple(
        _pair(better, worse, tables[better], tables[worse], alpha, seed)
        for better, worse in combinations(order, 2)
    )
    beaten = {pair.worse for pair in pairs if pair.clear and pair.better == order[0]}
    return Decision(
        order=order,
        standings={
            name: Standing(accuracy_interval(table, seed=seed), twice_run(table))
            for name, table in tables.items()
        },
        pairs=pairs,
        contenders=tuple(name for name in order if name not in beaten),
        level=1 - alpha,
    )


def _pair(
    better: str,
    worse: str,
    high: "npt.NDArray[np.float64]",
    low: "npt.NDArray[np.float64]",
    alpha: float,
    seed: int,
) -> Pair:
    # The ends of a high level are few draws' work: as many more are drawn as memory and time let.
    most = max(REPEATS, CELLS * 8 // high.shape[1])
    repeats = min(most, max(REPEATS, math.ceil(TAIL / alpha)))
    difference = paired_difference(low, high, repeats=repeats, seed=seed, level=1 - alpha)
    apart = high.mean(axis=0) - low.mean(axis=0)
    p_value = sign_flip_test(apart, seed=seed)
    least = least_shown(low, high, difference, alpha)
    needed = None
    if difference.mean > 0 and math.isfinite(least):
        more = math.ceil(high.shape[1] * (least / difference.mean) ** 2)
        needed = more if more > high.shape[1] else None
    return Pair(
        better=better,
        worse=worse,
        difference=difference,
        p_value=p_value,
        mcnemar=mcnemar([bool(one) for one in low[0]], [bool(one) for one in high[0]]),
        wins=int((apart > 0).sum()),
        losses=int((apart < 0).sum()),
        least=least,
        clear=difference.clear_of_zero and difference.mean > 0 and p_value <= alpha,
        needed=needed,
    )


def least_shown(
    first: "npt.NDArray[np.float64]",
    second: "npt.NDArray[np.float64]",
    difference: Interval,
    alpha: float = ALPHA,
) -> float:
    """Smallest difference in accuracy that these problems and repeats show with power 0.8.

    With one repeat each, `least_difference`, which is of McNemar's test. With more, that of a z test with the
    standard error that the interval's width stands for, which holds the problems', the answers' and the
    repeats' noise: (z_level + z_power) / z_level half widths. `inf` where it cannot be known: one problem, or
    no difference anywhere.

    Args:
        first, second: [repeats, problems], 1 for a right answer.
        difference: of `paired_difference`, of level 1 - alpha.
        alpha: of the test, two-sided.
    """
    problems = first.shape[1]
    if first.shape[0] == second.shape[0] == 1:
        return least_difference(problems, discordance(first, second), level=1 - alpha, power=POWER)
    if problems < 2 or not (first.mean(axis=0) != second.mean(axis=0)).any():
        return math.inf
    normal = NormalDist()
    half = (difference.high - difference.low) / 2
    found = half * (1 + normal.inv_cdf(POWER) / normal.inv_cdf(1 - alpha / 2))
    return found if 0 < found <= 1 else math.inf


def sentences(decision: Decision, problems: int, minutes: Mapping[str, float]) -> list[str]:
    """Plain sentences: what to submit and why, or that the data cannot tell and what would.

    Args:
        decision: of `decide`.
        problems: that were compared.
        minutes: of one repeat of each run.
    """
    best = decision.order[0]
    others = [name for name in decision.order if name not in decision.contenders]
    if decision.told:
        second = decision.pair(best, decision.order[1])
        found = [
            f"Submit {best}: {_percent(decision.standings[best].accuracy.mean)} right on {problems} problems,"
            f" {_ahead(second)} above {second.worse}, {_odds(second)}."
        ]
        if others[1:]:
            found.append(f"{_listed(others[1:])} {_are(others[1:])} clearly worse, too.")
        return found
    found = [f"The data cannot tell {_listed(decision.contenders)} apart."]
    for name in decision.contenders[1 : 1 + TOLD]:
        pair = decision.pair(best, name)
        if pair.wins == pair.losses == 0:
            found.append(f"{best} and {name} are right on the same problems.")
        elif pair.difference.mean == 0:
            found.append(f"{best} and {name} have the same score, {_shown(pair)}.")
        else:
            more = (
                ""
                if pair.needed is None
                else f", and this one needs about {_roughly(pair.needed)} such problems"
            )
            found.append(f"{best} is {_ahead(pair)} ahead of {name}, {_odds(pair)}; {_shown(pair)}{more}.")
    if len(decision.contenders) > 1 + TOLD:
        found.append("The other pairs are in the table.")
    if others:
        found.append(f"{_listed(others)} {_are(others)} clearly worse than {best}.")
    cheap = min(decision.contenders, key=lambda name: minutes[name])
    if minutes[cheap] < 0.9 * max(minutes[name] for name in decision.contenders):
        found.append(f"Of these, {cheap} takes the least time ({minutes[cheap]:.1f} min a contest).")
    found.append("More problems or repeats would tell; a public score of one submission would not.")
    return found


def _roughly(number: int) -> str:
    """Two digits, upwards: 3,729 is about 3,800."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return f"{-(-number // unit) * unit:,}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _ahead(pair: Pair) -> str:
    mean, low, high = (100 * side for side in (pair.difference.mean, *pair.difference[1:3]))
    return f"{mean:.1f} points ({low:.1f} to {high:.1f})"


def _odds(pair: Pair) -> str:
    told = "below 0.001" if pair.p_value < 0.001 else f"{pair.p_value:.3f}"
    return f"better on {pair.wins} problems and worse on {pair.losses} (p {told})"


def _shown(pair: Pair) -> str:
    if not math.isfinite(pair.least):
        return "no difference of such runs would show here"
    return f"differences from {100 * pair.least:.1f} points on would show here"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
