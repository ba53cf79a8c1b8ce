"""What a job leaves in its run's folder: which starts there were, and of each its plan, ends and logs.

    <out>/launch/
        history.json             every start: job, progress found, how it ended
        <job>.<restart>/         one start
            plan.json            what its nodes read
            stop                 is there when all ranks are asked to save and stop
            ends/                how ranks and nodes ended, where there is anything to tell
            engines/             addresses of the engines of each generation node
            secret               of trainer and engines, mode 0600
            logs/<node>/         per rank and engine

All nodes see it: they share a file system, as checkpoints need anyway.
"""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from kit.launch.requeue import Start
from kit.launch.spec import JobSpec
from kit.training.checkpoint_files import MANIFEST, step_folder, steps_in
from submission.files import write_text

STOP = "stop"
_LONGEST = 1_000  # starts that are remembered


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ValueError naming the file, where it is missing or not one of these."""
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValidationError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def write(self, path: Path) -> None:
        """Write atomically."""
        write_text(path, self.model_dump_json(indent=1) + "\n")


class Plan(_Written):
    """What every node of a start must know. What differs by node is not in it."""

    args: tuple[str, ...]
    """`JobSpec.to_args`."""
    hosts: tuple[str, ...]
    """All nodes; those that train come first, and the first of them is where ranks meet."""
    job: str
    port: int
    """Where ranks meet; engines take the ones above it."""
    overrides: tuple[str, ...] = ()
    """What the layout adds to the recipe: where the engines are."""

    @property
    def spec(self) -> JobSpec:
        """The job."""
        return JobSpec.parse(self.args, nodes=len(self.hosts))

    @property
    def trainers(self) -> tuple[str, ...]:
        """Nodes that train, or play."""
        return self.hosts[: self.spec.training_nodes]

    @property
    def generators(self) -> tuple[str, ...]:
        """Nodes that serve engines."""
        return self.hosts[self.spec.training_nodes :]


class End(_Written):
    """How one rank, node or engine ended."""

    who: str
    kind: Literal["stopped", "failed", "mistake"]
    reason: str
    time: float
    """Since the epoch: the first failure is the cause of the others."""


class Engines(_Written):
    """What a generation node serves."""

    addresses: tuple[str, ...]


class Attempt(_Written):
    """A start of a job."""

    job: str
    restart: int
    began: float
    nodes: tuple[str, ...]
    progress: int
    ended: str = ""


class History(_Written):
    """All starts on one run's folder, the oldest first."""

    attempts: tuple[Attempt, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> "History":
        """That of a launch folder; empty where there is none yet."""
        path = folder / "history.json"
        return cls.read(path) if path.exists() else cls()

    def save(self, folder: Path) -> None:
        """Write it there, atomically."""
        self.write(folder / "history.json")

    def with_start(self, attempt: Attempt) -> "History":
        """And one more."""
        return History(attempts=(*self.attempts, attempt)[-_LONGEST:])

    def with_end(self, reason: str) -> "History":
        """The last one has ended."""
        last = self.attempts[-1].model_copy(update={"ended": reason})
        return History(attempts=(*self.attempts[:-1], last))

    def starts(self, job: str) -> list[Start]:
        """Those of one job."""
        return [Start(one.progress, one.ended) for one in self.attempts if one.job == job]


def attempt_folder(launch: Path, job: str, restart: int) -> Path:
    """Where a start keeps its files."""
    return launch / f"{job}.{restart}"


def log_folder(attempt: Path, host: str) -> Path:
    """Where a node of it keeps its logs."""
    return attempt / "logs" / host


def tell_end(attempt: Path, who: str, kind: Literal["stopped", "failed", "mistake"], reason: str) -> None:
    """Leave word for the batch script of how `who` (a rank, a node, an engine) ended."""
    End(who=who, kind=kind, reason=reason, time=time.time()).write(attempt / "ends" / f"{who}.json")


def ends_of(attempt: Path) -> list[End]:
    """What was told so far, the first first."""
    folder = attempt / "ends"
    found = [End.read(path) for path in folder.glob("*.json")] if folder.is_dir() else []
    return sorted(found, key=lambda end: end.time)


def ask_to_stop(attempt: Path) -> None:
    """Ask all ranks to save and stop; idempotent."""
    (attempt / STOP).touch()


def asked_to_stop(attempt: Path) -> bool:
    """Whether they are asked."""
    # Listing, not stat by name: a network file system caches "there is no such name".
    return STOP in os.listdir(attempt)  # noqa: PTH208 - names only


def progress(spec: JobSpec) -> int:
    """Step of the newest committed checkpoint; of eval, lines of the contest's journal."""
    if spec.phase == "eval":
        journal = spec.out.with_suffix(".journal.jsonl")
        return len(journal.read_bytes().splitlines()) if journal.exists() else 0
    return newest_checkpoint(spec.out / "checkpoints")


def newest_checkpoint(folder: Path) -> int:
    """Its step; 0 without any. One that was not committed has no manifest."""
    steps: Iterable[int] = reversed(steps_in(folder))
    return next((step for step in steps if (step_folder(folder, step) / MANIFEST).is_file()), 0)
