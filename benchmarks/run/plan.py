"""What a run is, and its folder: an interrupted run goes on in its own folder and in no other's."""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.run.optimization import optimization_overrides
from benchmarks.run.sets import ProblemSet, contest_gold
from submission.files import write_text
from submission.selection.rule import Rule
from submission.settings import SolverSettings
from submission.setup import Setup, resolve

CONFIG = "config.json"
SEED_STEP = 100_000
"""Between the seeds of repeats: far more than samples a problem."""
UNLIMITED_SECONDS = 30 * 86_400.0
"""An unlimited run is a contest of so long: longer than any, short enough for every timer."""
PLAIN_PROMPT = "Solve the problem step by step. Put the final answer in \\boxed{}."
"""For sets with other answers than integers, in place of the default that asks for an integer."""


@dataclass(frozen=True)
class Plan:
    """All that decides what is played.

    Args:
        bundle: its folder; None takes MATH_MODEL_PATH.
        sets: in the order in which they are played.
        time_limit: seconds of one contest; None where `samples` is given.
        samples: of each problem, without a limit; None for contests.
        repeat: contests with each set.
        optimization: a name, "" leaves the bundle's own settings.
        settings: own overrides, which have the last word.
        team: a shipped team or a team's file; None leaves the bundle's own.
        seed: of the order of problems and of sampling.
        shuffle: ask the problems of each contest in a random order of its own.
    """

    bundle: Path | None
    sets: tuple[ProblemSet, ...]
    time_limit: float | None
    samples: int | None
    repeat: int = 1
    optimization: str = ""
    settings: tuple[str, ...] = ()
    team: str | None = None
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        assert (self.time_limit is None) != (self.samples is None), "a contest, or samples"

    @property
    def jobs(self) -> "tuple[Job, ...]":
        """Every contest, repeats of all sets in turn: an early look compares all sets."""
        return tuple(Job(one, number) for number in range(self.repeat) for one in self.sets)

    def overrides(self, job: "Job") -> list[str]:
        """With which the contest's server resolves the job's settings."""
        base = self.base.settings
        found = [f"rules.expected_problems={len(job.problems.items)}", f"solver.seed={self._seed(job)}"]
        if self.samples is None:
            found.append(f"rules.time_limit={self.time_limit!r}")
        else:
            found += self._unlimited(base.solver.system_prompt, job, self.samples)
        if self.optimization:
            found += optimization_overrides(self.optimization, base.solver)
        return [*found, *self.settings]

    def _unlimited(self, prompt: str, job: "Job", samples: int) -> list[str]:
        settings = self.base.settings
        places = settings.engine.max_num_seqs
        if settings.team.uses_tools:
            # A role without a seat in the sandbox would write without its tools.
            places = min(places, settings.sandbox.workers)
        found = [
            f"rules.time_limit={UNLIMITED_SECONDS:.0f}",
            f"budget.cap={UNLIMITED_SECONDS:.0f}",
            "solver.policy=fixed",
            f"solver.max_attempts={samples}",
            f"solver.num_agents={min(samples, places)}",
        ]
        rules = settings.rules
        whole = all(
            contest_gold(item.gold, rules.answer_min, rules.answer_max) is not None
            for item in job.problems.items
        )
        if not whole and prompt == SolverSettings().system_prompt:
            found.append(f"solver.system_prompt={json.dumps(PLAIN_PROMPT)}")
        return found

    @cached_property
    def base(self) -> Setup:
        """The bundle's own settings, with the user's overrides."""
        return resolve(self.bundle, self.settings, team=self.team)

    def setup(self, job: "Job") -> Setup:
        """What the job is played with.

        Raises:
            ValueError: the bundle or a setting is wrong.
        """
        return resolve(self.bundle, self.overrides(job), team=self.team)

    def _seed(self, job: "Job") -> int:
        return self.seed + SEED_STEP * job.repeat

    def order(self, job: "Job") -> int | None:
        """Seed of the job's order of problems, None for the set's own."""
        return self._seed(job) if self.shuffle else None

    def config(self) -> dict[str, Any]:
        """The run's identity, ready for JSON. `repeat` is told apart: more repeats may be asked for later."""
        setup = self.base
        return {
            "mode": "samples" if self.samples is not None else "contest",
            "bundle": setup.name,
            "bundle_digest": setup.digest,
            "time_limit": self.time_limit,
            "samples": self.samples,
            "optimization": self.optimization,
            "settings": list(self.settings),
            "team": self.team,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "sets": {
                one.name: {
                    "problems": len(one.items),
                    "digest": one.digest,
                    "source": one.source,
                    "left_out": one.left_out,
                }
                for one in self.sets
            },
        }


@dataclass(frozen=True)
class Job:
    """One contest: a set and the number of its repeat, from 0."""

    problems: ProblemSet
    repeat: int

    @property
    def name(self) -> str:
        """Also of its folder."""
        return f"{self.problems.name}-{self.repeat}"

    def folder(self, out: Path) -> Path:
        """Where it is played."""
        return out / "contests" / self.name


def prm_rule(setup: Setup) -> Rule | None:
    """How PRM@k chooses: as the calibration says where it uses the scores, else the PRM-weighted vote."""
    if setup.prm is None:
        return None
    if setup.rule.method in ("prm", "best_of_n") and setup.rule.blend == 1:
        return setup.rule
    return Rule(method="prm", aggregate=setup.rule.aggregate)


@contextlib.contextmanager
def opened(out: Path, plan: Plan) -> Iterator[None]:
    """The folder of this run, for this process alone; made if it is new.

    Raises:
        ValueError: it cannot be written, holds something else or another run, or another process uses it.
    """
    config = plan.config()
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ValueError(f"--out {out}: cannot write there: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--out {out}: another run is writing there; wait, or name another") from None
        _check_folder(out, config)
        try:
            write_text(out / CONFIG, json.dumps({**config, "repeat": plan.repeat}, indent=2) + "\n")
        except OSError as error:
            raise ValueError(f"--out {out}: cannot write there: {error.strerror}") from None
        yield
    finally:
        os.close(handle)


def _check_folder(out: Path, config: dict[str, Any]) -> None:
    path = out / CONFIG
    if not path.is_file():
        # A process that was killed in the middle of writing leaves its half of a file.
        own = re.compile(rf"\.lock|\.{re.escape(CONFIG)}\..*\.tmp")
        if any(not own.fullmatch(item.name) for item in out.iterdir()):
            raise ValueError(f"--out {out} holds other files and no {CONFIG}; name a new folder")
        return
    try:
        before = json.loads(path.read_bytes())
        differing = [key for key, value in config.items() if before.get(key) != value]
    except (ValueError, AttributeError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); name a new folder") from None
    if differing:
        told = "; ".join(
            f"{key} was {before.get(key)!r:.120}, is {config[key]!r:.120}" for key in differing[:3]
        )
        raise ValueError(f"--out {out} holds a run of other settings ({told}); name a new folder")
