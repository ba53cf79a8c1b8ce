"""The simulator held against the contests that were recorded: the same problems, samples and order again.

Samples that were cut off then go on without an end now: the policy has to cut them off by itself, at the
time at which it did. What is compared is the time of the last answer.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.run.optimization import optimization_overrides
from benchmarks.run.plan import CONFIG
from benchmarks.run.tables import ANSWERS, RESULTS, SAMPLES
from benchmarks.simulator.contest import Entry, Machine, simulate
from benchmarks.simulator.pool import PoolProblem, PoolSample, make_pools
from benchmarks.simulator.recording import Taken
from benchmarks.simulator.throughput import Throughput
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
    """

    name: str
    contest: str
    order: tuple[str, ...]
    seconds: float
    begun: float
    time_limit: float


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


def read_contests(folder: Path) -> list[Real]:
    """The contests of a run's folder; none of a run of samples without a limit.

    Raises:
        ValueError: the folder holds no finished run.
    """
    import polars as pl

    try:
        results = json.loads((folder / RESULTS).read_bytes())
        if results["mode"] != "contest":
            return []
        table = pl.read_csv(folder / ANSWERS, schema_overrides={"id": pl.String, "set": pl.String})
        begun = (pl.col("answered") - pl.col("seconds")).min()
        ends = table.group_by("set", "repeat").agg(begun.alias("begun"), pl.col("answered").max()).iter_rows()
        times = {(name, repeat): (begun, answered) for name, repeat, begun, answered in ends}
        several = len(results["figures"]) > 1
        return [
            _real(one, folder / SAMPLES, *times[one["set"], one["repeat"]], several=several)
            for one in results["contests"]
        ]
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        first = str(error).partition("\n")[0][:200]
        raise ValueError(f"{folder} holds no finished run of benchmarks.run: {first}") from None


def _real(one: dict[str, Any], samples: Path, begun: float, seconds: float, *, several: bool) -> Real:
    prefix = f"{one['set']}/" if several else ""
    return Real(
        name=f"{one['set']}-{one['repeat']}",
        contest=f"{samples}/{one['set']}/{one['repeat']}",
        order=tuple(prefix + identifier for identifier in one["order"]),
        seconds=seconds,
        begun=begun,
        time_limit=one["time_limit"],
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
    throughput: Throughput,
    settings: ContestSettings,
    rule: Rule = PLAIN,
) -> Checked:
    """Play one recorded contest again.

    Args:
        real: what was played.
        taken: samples, of this contest and perhaps of others.
        throughput: of the engine, fitted or given.
        settings: with which it was played.
        rule: how answers were chosen.
    """
    own = sorted((one for one in taken if one.contest == real.contest), key=lambda one: one.attempt)
    by_id = {problem.id: problem for problem in make_pools(own, throughput, keep_cut=True)[0]} if own else {}
    problems = [by_id.get(name, PoolProblem(name, (NOTHING,))) for name in real.order]
    entries = [Entry(problem, problem.id, problem.samples) for problem in problems]
    rules = settings.rules.model_copy(update={"time_limit": real.time_limit})
    machine = Machine(throughput, load_seconds=real.begun)
    found = simulate(entries, settings.model_copy(update={"rules": rules}), machine, rule)
    return Checked(real.name, real.seconds, found.seconds, found.right)
