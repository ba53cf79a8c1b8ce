"""Contests that were played, predicted from samples that were recorded elsewhere: how far off, and why.

Where contest and recording drew the same samples (same model, prompt and seed), their tokens tell, and the
recorded ones are played in their order; else samples of the same problems are drawn many times.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.simulator.check import Real
from benchmarks.simulator.contest import Entry, Machine, Simulated, simulate
from benchmarks.simulator.pool import PoolProblem, make_pools
from benchmarks.simulator.recording import Taken
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestSettings

ALIKE = 0.5
"""Share of equal samples from which both are taken to have drawn the same."""
DRAWS = 20


@dataclass(frozen=True)
class ProblemTime:
    """Seconds of one problem, from the beginning of its sampling to its answer."""

    id: str
    real: float
    predicted: float


@dataclass(frozen=True)
class Prediction:
    """A contest's time as it was and as it was predicted; seconds.

    Args:
        name: of its set and repeat.
        problems: in the order in which they were asked.
        real, predicted: until the last answer; the mean where several draws were played.
        low, high: of the draws.
        loading: until sampling began: real and predicted.
        alike: share of the contest's whole samples that the recording has too, token for token as far as
            their numbers tell.
        pace: how many times as long a token took in the contest as in the recording, company taken out by the
            curve: of the machine, or of a curve that is off.
    """

    name: str
    problems: tuple[ProblemTime, ...]
    real: float
    predicted: float
    low: float
    high: float
    loading: tuple[float, float]
    alike: float
    pace: float

    @property
    def error(self) -> float:
        """Of the whole time, as a share of the real one."""
        return self.predicted / self.real - 1

    @property
    def sampling_error(self) -> float:
        """Of the time without loading."""
        return (self.predicted - self.loading[1]) / (self.real - self.loading[0]) - 1

    @property
    def rest(self) -> float:
        """What is left of `sampling_error` at the contest's own pace: the simulator's and chance."""
        return (1 + self.sampling_error) * self.pace - 1


def predict(
    real: Real,
    played: Sequence[Taken],
    recorded: Sequence[Taken],
    machine: Machine,
    settings: ContestSettings,
    rule: Rule = PLAIN,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Prediction:
    """Predict one contest and lay it beside the real one.

    Args:
        real: what was played.
        played: its samples, for what they tell of the difference; nothing of them is used to predict.
        recorded: samples of the same problems.
        machine: of the recording.
        settings: with which the contest was played.
        rule: how answers were chosen.
        draws: contests that are played where the samples are others.
        seed: of the draws.

    Raises:
        ValueError: the recording lacks a problem.
    """
    recorded = sorted(recorded, key=lambda one: one.attempt)
    pools = {problem.id: problem for problem in make_pools(recorded, machine.throughput, keep_cut=True)[0]}
    lacking = next((name for name in real.order if name not in pools), None)
    if lacking is not None:
        raise ValueError(
            f"the recording has no sample of problem {lacking!r}, which contest {real.name} asked"
        )
    problems = [pools[name] for name in real.order]
    rules = settings.rules.model_copy(update={"time_limit": real.time_limit})
    settings = settings.model_copy(update={"rules": rules})
    own = [one for one in played if one.contest == real.contest]
    same, pace = compare(own, recorded, machine)
    orders = [problems] if same >= ALIKE else [_shuffled(problems, f"{seed}/{draw}") for draw in range(draws)]
    found = [
        simulate([Entry(one, one.id, one.samples) for one in order], settings, machine, rule)
        for order in orders
    ]
    ends = [one.seconds for one in found]
    return Prediction(
        name=real.name,
        problems=_times(real, found),
        real=real.seconds,
        predicted=fmean(ends),
        low=min(ends),
        high=max(ends),
        loading=(real.begun, machine.load_seconds),
        alike=same,
        pace=pace,
    )


def _shuffled(problems: Sequence[PoolProblem], seed: str) -> list[PoolProblem]:
    """The problems with their samples in another order."""
    return [
        PoolProblem(one.id, tuple(Random(f"{seed}/{one.id}").sample(one.samples, len(one.samples))))
        for one in problems
    ]


def _times(real: Real, found: Sequence[Simulated]) -> tuple[ProblemTime, ...]:
    return tuple(
        ProblemTime(name, ended - begun, fmean(one.problems[number].seconds for one in found))
        for number, (name, (begun, ended)) in enumerate(zip(real.order, real.spans, strict=False))
    )


def compare(played: Sequence[Taken], recorded: Sequence[Taken], machine: Machine) -> tuple[float, float]:
    """What two recordings of the same problems have in common.

    Returns:
        (alike, pace), as of `Prediction`: the pace of equal samples where there are enough of them, else of
        all; 1 where nothing tells.
    """
    first, second = _by_attempt(played, machine), _by_attempt(recorded, machine)
    common = [key for key in first if key in second]
    equal = [key for key in common if first[key][0] == second[key][0]]
    # Two that were both cut at the greatest length, or where the context was full, tell nothing.
    longest: dict[str, int] = {}
    for (problem, _), (tokens, _) in second.items():
        longest[problem] = max(tokens, longest.get(problem, 0))
    telling = [key for key in common if min(first[key][0], second[key][0]) < longest[key[0]]]
    alike = len(set(equal) & set(telling)) / len(telling) if telling else 0.0
    keys = (equal, equal) if alike >= ALIKE else (list(first), list(second))
    costs = [
        _cost([found[key] for key in chosen]) for found, chosen in zip((first, second), keys, strict=True)
    ]
    return alike, costs[0] / costs[1] if all(map(math.isfinite, costs)) else 1.0


def _by_attempt(taken: Sequence[Taken], machine: Machine) -> dict[tuple[str, int], tuple[int, float]]:
    """Tokens and seconds alone of each sample that ended, by problem and attempt."""
    found: dict[tuple[str, int], tuple[int, float]] = {}
    for problem in make_pools(taken, machine.throughput, keep_cut=True)[0] if taken else ():
        own = [one for one in taken if one.problem == problem.id]
        for one, sample in zip(own, problem.samples, strict=True):
            if one.ended and one.tokens:
                found[problem.id, one.attempt] = (sample.tokens, sample.work)
    return found


def _cost(samples: Sequence[tuple[int, float]]) -> float:
    """Seconds alone a token; NaN of none."""
    tokens = sum(count for count, _ in samples)
    return math.fsum(work for _, work in samples) / tokens if tokens else math.nan


def prediction_facts(one: Prediction) -> Mapping[str, Any]:
    """For JSON."""
    return {
        "name": one.name,
        "real": one.real,
        "predicted": one.predicted,
        "low": one.low,
        "high": one.high,
        "error": one.error,
        "loading": {"real": one.loading[0], "predicted": one.loading[1]},
        "sampling_error": one.sampling_error,
        "pace": one.pace,
        "rest": one.rest,
        "alike": one.alike,
        "problems": [
            {"id": time.id, "real": time.real, "predicted": time.predicted} for time in one.problems
        ],
    }
