"""The simulator held against the contests that were recorded: the same problems, samples and order again.

Samples that were cut off then go on without an end now: the policy has to cut them off by itself, at the
time at which it did. What is compared is the time of the last answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.run.optimization import optimization_overrides
from benchmarks.run.plan import CONFIG
from benchmarks.run.tables import ANSWERS, RESULTS, SAMPLES
from benchmarks.simulator.contest import Entry, Machine, simulate
from benchmarks.simulator.pool import PoolProblem, PoolSample, make_pools
from benchmarks.simulator.recording import Taken
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestSettings

NOTHING = PoolSample("no answer", None, tokens=0, work=1.0, ended=False)
"""Of a problem that left no sample: it had no time, or no engine."""


@dataclass(frozen=True)
class Real:
    """A contest that was played.

    Args:
        name: of its set and repeat.
        contest: as its samples tell it (`Taken.contest`).
        order: ids of its problems (`Taken.problem`), in the order in which they were asked.
        seconds: of the contest at the last answer.
        begun: seconds of the contest when the first problem's sampling began: the engine was loaded.
        time_limit: seconds.
        spans: of each problem of `order`: seconds of the contest when its sampling began, and when it was
            answered; only of those that were asked.
    """

    name: str
    contest: str
    order: tuple[str, ...]
    seconds: float
    begun: float
    time_limit: float
    spans: tuple[tuple[float, float], ...] = ()

    @property
    def between(self) -> float:
        """Seconds from an answer to the next problem's sampling, in the middle: gateway, journal, budget."""
        gaps = [max(0.0, after[0] - before[1]) for before, after in pairwise(self.spans)]
        return median(gaps) if gaps else 0.0


@dataclass(frozen=True)
class Checked:
    """One contest, real and simulated: seconds at the last answer, answers that are right."""

    name: str
    real: float
    simulated: float
    right: int

    @property
    def error(self) -> float:
        """Of the simulated time, as a share of the real one."""
        return self.simulated / self.real - 1


def read_contests(folder: Path, *, samples: bool = False) -> list[Real]:
    """The contests of a run's folder; those of a run of samples without a limit only where `samples` is set.

    Raises:
        ValueError: the folder holds no finished run.
    """
    import polars as pl

    try:
        results = json.loads((folder / RESULTS).read_bytes())
        if results["mode"] != "contest" and not samples:
            return []
        table = pl.read_csv(folder / ANSWERS, schema_overrides={"id": pl.String, "set": pl.String})
        rows = table.select("set", "repeat", "id", "answered", "seconds").iter_rows()
        spans: dict[tuple[str, int], dict[str, tuple[float, float]]] = {}
        for name, repeat, identifier, answered, seconds in rows:
            spans.setdefault((name, repeat), {})[identifier] = (answered - seconds, answered)
        several = len(results["figures"]) > 1
        return [
            _real(one, folder / SAMPLES, spans[one["set"], one["repeat"]], several=several)
            for one in results["contests"]
        ]
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        first = str(error).partition("\n")[0][:200]
        raise ValueError(f"{folder} holds no finished run of benchmarks.run: {first}") from None


def _real(
    one: dict[str, Any], samples: Path, spans: Mapping[str, tuple[float, float]], *, several: bool
) -> Real:
    prefix = f"{one['set']}/" if several else ""
    return Real(
        name=f"{one['set']}-{one['repeat']}",
        contest=f"{samples}/{one['set']}/{one['repeat']}",
        order=tuple(prefix + identifier for identifier in one["order"]),
        seconds=max(answered for _, answered in spans.values()),
        begun=min(begun for begun, _ in spans.values()),
        time_limit=one["time_limit"],
        spans=tuple(spans[identifier] for identifier in one["order"] if identifier in spans),
    )


def run_overrides(folder: Path, settings: Path | None) -> list[str]:
    """What the run's own command line changed of the settings in this file, or of the defaults.

    Its time limit among them, where it played contests.

    Raises:
        ValueError: the folder's config cannot be read.
    """
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        chosen = config["optimization"]
        base = ContestSettings.load(settings, config["settings"]).solver
        found = list(optimization_overrides(chosen, base)) if chosen else []
        if config["time_limit"] is not None:
            found.append(f"rules.time_limit={float(config['time_limit'])!r}")
        return [*found, *config["settings"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no config of benchmarks.run: {error}") from None


def check(
    real: Real,
    taken: Sequence[Taken],
    machine: Machine,
    settings: ContestSettings,
    rule: Rule = PLAIN,
) -> Checked:
    """Play one recorded contest again.

    Args:
        real: what was played.
        taken: samples, of this contest and perhaps of others.
        machine: of the recording; loading and the time between problems are the contest's own.
        settings: with which it was played.
        rule: how answers were chosen.
    """
    own = sorted((one for one in taken if one.contest == real.contest), key=lambda one: one.attempt)
    by_id = (
        {problem.id: problem for problem in make_pools(own, machine.throughput, keep_cut=True)[0]}
        if own
        else {}
    )
    problems = [by_id.get(name, PoolProblem(name, (NOTHING,))) for name in real.order]
    entries = [Entry(problem, problem.id, problem.samples) for problem in problems]
    rules = settings.rules.model_copy(update={"time_limit": real.time_limit})
    machine = replace(machine, load_seconds=real.begun, between=real.between)
    found = simulate(entries, settings.model_copy(update={"rules": rules}), machine, rule)
    return Checked(real.name, real.seconds, found.seconds, found.right)
