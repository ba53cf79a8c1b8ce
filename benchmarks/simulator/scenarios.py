"""What-if: many contests of each scenario, all scenarios on the same draws, and what they score."""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.simulator.contest import Machine, Order, Simulated, draw_contest, simulate
from benchmarks.simulator.pool import Pools
from benchmarks.statistics.accuracy import accuracy_interval
from submission.selection.rule import PLAIN, Rule
from submission.selection.statistics import Interval
from submission.settings import ContestSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_SCENARIOS = 500


@dataclass(frozen=True)
class Scenario:
    """One set of what may be otherwise.

    Args:
        time_limit: seconds of the contest, loading included.
        attempts: samples of a problem at most, all side by side; None leaves the settings' own.
        policy: of `solver.policy`.
        slower: how many times as long the engine takes.
        order: of the problems.
    """

    time_limit: float
    attempts: int | None = None
    policy: str = "agree"
    slower: float = 1.0
    order: Order = "shuffled"

    def settings(self, base: ContestSettings) -> ContestSettings:
        """The contest's settings.

        Raises:
            ValueError: one of the values is not allowed.
        """
        given: dict[str, Any] = base.model_dump()
        given["rules"]["time_limit"] = self.time_limit
        given["solver"]["policy"] = self.policy
        if self.attempts is not None:
            given["solver"] |= {"num_agents": self.attempts, "max_attempts": self.attempts}
        return ContestSettings.parse(given, f"scenario {self}")


@dataclass(frozen=True)
class Result:
    """What a scenario gives.

    Args:
        scenario: what was played.
        score: expected right answers of a contest, with the 95 % interval over problems that might have been
            asked.
        spread: standard deviation of one contest's score on problems like these; 0 of a single contest.
        minutes, most_minutes: used until the last answer: the mean, and the longest contest.
        unanswered: problems of a contest that got the default answer, mean.
        samples, tokens: of a problem, mean; those that were cut off included.
        contests: that were played.
    """

    scenario: Scenario
    score: Interval
    spread: float
    minutes: float
    most_minutes: float
    unanswered: float
    samples: float
    tokens: float
    contests: int


def grid(
    time_limits: Sequence[float],
    attempts: Sequence[int | None],
    policies: Sequence[str],
    slower: Sequence[float],
    orders: Sequence[Order],
) -> list[Scenario]:
    """All combinations; the time limits of one combination follow each other, rising: its curve.

    Raises:
        ValueError: more than `MOST_SCENARIOS`, or a value that no contest can have.
    """
    for name, values in (("time limit", time_limits), ("slower", slower)):
        if any(value <= 0 for value in values):
            raise ValueError(f"{name} {min(values)}: must be positive")
    if any(count is not None and count < 1 for count in attempts):
        raise ValueError(f"attempts {attempts}: must be at least 1")
    rest = itertools.product(attempts, policies, slower, orders)
    found = [Scenario(limit, *others) for others in rest for limit in sorted(time_limits)]
    if len(found) > MOST_SCENARIOS:
        raise ValueError(f"{len(found)} scenarios are more than {MOST_SCENARIOS}: leave out some values")
    return found


def play(
    scenario: Scenario,
    pools: Pools,
    settings: ContestSettings,
    *,
    size: int,
    contests: int,
    machine: Machine | None = None,
    rule: Rule = PLAIN,
    seed: int = 0,
) -> Iterator[Simulated]:
    """The scenario's contests; the same `seed` gives every scenario the same problems and attempts.

    Args:
        scenario: what is otherwise.
        pools: what is drawn from.
        settings: of the contest, but for the scenario's.
        size: problems of a contest.
        contests: how many.
        machine: the recorded one; None has the pools' engine, loads at once and waits for nothing else. A
            slower one loads as fast.
        rule: how answers are chosen.
        seed: of all draws.
    """
    chosen = scenario.settings(settings)
    machine = replace(machine or Machine(pools.throughput), slower=scenario.slower)
    for number in range(contests):
        entries = draw_contest(
            pools.problems, size, chosen.solver.attempts, scenario.order, f"{seed}/{number}"
        )
        yield simulate(entries, chosen, machine, rule)


def evaluate(scenario: Scenario, played: Sequence[Simulated], *, seed: int = 0) -> Result:
    """What these contests, at least one and all of one size, come to; `seed` is the bootstrap's."""
    answered = [one for contest in played for one in contest.problems]
    size = len(answered) / len(played)
    share = accuracy_interval(_shares(played), seed=seed)
    rights = [contest.right for contest in played]
    return Result(
        scenario=scenario,
        score=Interval(size * share.mean, size * share.low, size * share.high),
        spread=statistics.stdev(rights) if len(rights) > 1 else 0.0,
        minutes=statistics.fmean(contest.seconds for contest in played) / 60,
        most_minutes=max(contest.seconds for contest in played) / 60,
        unanswered=statistics.fmean(contest.unanswered for contest in played),
        samples=statistics.fmean(one.samples for one in answered),
        tokens=statistics.fmean(one.tokens for one in answered),
        contests=len(played),
    )


def _shares(played: Sequence[Simulated]) -> "npt.NDArray[np.float64]":
    """[1, problems] share of right answers at each problem of the pools that was asked at all.

    One row: copies of a problem in a contest, and its repeats in others, tell nothing of other problems.
    """
    import numpy as np

    by_problem: dict[str, list[bool]] = {}
    for contest in played:
        for one in contest.problems:
            by_problem.setdefault(one.problem, []).append(one.right)
    return np.asarray([[sum(found) / len(found) for found in by_problem.values()]], dtype=np.float64)


def facts(result: Result) -> Mapping[str, Any]:
    """For JSON."""
    one = result.scenario
    return {
        "time_limit": one.time_limit,
        "attempts": one.attempts,
        "policy": one.policy,
        "slower": one.slower,
        "order": one.order,
        "score": {"mean": result.score.mean, "low": result.score.low, "high": result.score.high},
        "spread": result.spread,
        "minutes": result.minutes,
        "most_minutes": result.most_minutes,
        "unanswered": result.unanswered,
        "samples": result.samples,
        "tokens": result.tokens,
        "contests": result.contests,
    }
