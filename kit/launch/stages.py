"""What is known of a pipeline's stages: which have succeeded, of what they were made, and what they took.

    <out>/launch/stages/
        plan.json            the stages of the last submission in their order
        <stage>.begun.json   what the stage that was started last is made of
        <stage>.json         what the stage that succeeded last was made of, its output and its cost
    <out>/launch/stages.json what has finished so far, for whoever tells of it

A stage that ends well writes its record itself, from within its job: nobody has to wait for it.
"""

import datetime
import fcntl
import json
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from kit.launch.spec import LAUNCH
from submission.files import write_text

SHOWN = "stages.json"
_FOLDER = "stages"
_MOST = 100_000


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None where it is missing, torn, or of another version: then nothing is known."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, path: Path) -> None:
        """Write atomically."""
        write_text(path, self.model_dump_json(indent=1) + "\n")


class Begun(_Kept):
    """A stage that was started."""

    fingerprint: str
    after: dict[str, str]
    """When the stages before it were finished, by name: a fingerprint tells what they were to make."""
    turn: str
    """The submission in which it was started first."""
    started: str
    seconds: float = 0.0
    """Of the starts that have ended without success."""
    cpu_seconds: float = 0.0


class Done(_Kept):
    """A stage that has succeeded. `cpu_seconds` is None where its processes ran on other nodes."""

    fingerprint: str
    parts: dict[str, str]
    after: dict[str, str]
    turn: str
    started: str
    finished: str
    seconds: float
    cpu_seconds: float | None
    files: dict[str, int]
    """Sizes in bytes of what it left, by path below its folder."""

    def missing(self, out: Path) -> str:
        """The first file that is not there any more, or not of its size; empty where all are."""
        for name, size in self.files.items():
            path = out / name
            if not path.is_file() or path.stat().st_size != size:
                return name
        return ""


class Planned(_Kept):
    """A stage of a submission."""

    name: str
    after: tuple[str, ...]
    command: tuple[str, ...]
    out: str
    skipped: bool


class Plan(_Kept):
    """A submission."""

    turn: str
    stages: tuple[Planned, ...]


def now() -> str:
    """ISO 8601, UTC, to the microsecond: two stages never finish at one."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class StageFolder:
    """The records of the pipeline whose folder is `out`."""

    out: Path

    @property
    def shown(self) -> Path:
        """What has finished so far, as JSON for a page."""
        return self.out / LAUNCH / SHOWN

    @property
    def _folder(self) -> Path:
        return self.out / LAUNCH / _FOLDER

    def done(self, name: str) -> Done | None:
        """The record of a stage that has succeeded."""
        return Done.read(self._folder / f"{name}.json")

    def begun(self, name: str) -> Begun | None:
        """The record of a stage that was started."""
        return Begun.read(self._folder / f"{name}.begun.json")

    def keep(self, name: str, record: "Begun | Done") -> None:
        """Write a stage's record."""
        self._folder.mkdir(parents=True, exist_ok=True)
        record.write(self._folder / f"{name}{'.begun' if isinstance(record, Begun) else ''}.json")

    def plan(self, plan: Plan) -> None:
        """Write down a submission, before any of its stages starts."""
        self._folder.mkdir(parents=True, exist_ok=True)
        plan.write(self._folder / "plan.json")
        self.show()

    def show(self) -> None:
        """Write `shown` anew; several stages may end at the same time."""
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            plan = Plan.read(self._folder / "plan.json")
            if plan is None:
                return
            rows = [row for stage in plan.stages if (row := self._row(stage, plan.turn))]
            since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(plan.turn)
            text = json.dumps({"stages": rows, "seconds": round(since.total_seconds(), 3)}, indent=1)
            write_text(self.shown, text + "\n")

    def _row(self, stage: Planned, turn: str) -> dict[str, object] | None:
        found = self.done(stage.name)
        if found is None or not (stage.skipped or found.turn == turn):
            return None
        return {
            "name": stage.name,
            "after": list(stage.after),
            "command": " ".join(stage.command),
            "started": found.started,
            "seconds": found.seconds,
            "skipped": stage.skipped,
            "cpu_seconds": found.cpu_seconds,
            "out": stage.out,
        }


@dataclass(frozen=True)
class StageWork:
    """A stage as its job has to record it.

    Args:
        pipeline: folder of the pipeline.
        out: the stage's own.
        keep: folder below `out` that is its result, empty for all of it.
        after: stages before it.
        turn: of the submission, as `now` gives it.
        fresh: leave nothing of an earlier submission.
        alone: whether all its processes are children of its job's own.
    """

    name: str
    pipeline: Path
    out: Path
    keep: str
    parts: dict[str, str]
    fingerprint: str
    after: tuple[str, ...]
    turn: str
    fresh: bool = False
    alone: bool = True

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Around a start: puts aside what others have left in its folder, and writes down how it ended."""
        folder = StageFolder(self.pipeline)
        mine = self._begin(folder)
        began, spent = time.monotonic(), _cpu_seconds()
        try:
            yield
        except BaseException:
            seconds = mine.seconds + time.monotonic() - began
            cpu = mine.cpu_seconds + _cpu_seconds() - spent
            folder.keep(self.name, mine.model_copy(update={"seconds": seconds, "cpu_seconds": cpu}))
            raise
        found = Done(
            fingerprint=self.fingerprint,
            parts=self.parts,
            after=mine.after,
            turn=self.turn,
            started=mine.started,
            finished=now(),
            seconds=round(mine.seconds + time.monotonic() - began, 3),
            cpu_seconds=round(mine.cpu_seconds + _cpu_seconds() - spent, 3) if self.alone else None,
            files=sizes(self.out, self.keep),
        )
        folder.keep(self.name, found)
        folder.show()

    def _begin(self, folder: StageFolder) -> Begun:
        """Go on where this very stage was started before; else begin with an empty folder."""
        before = {name: done.finished if (done := folder.done(name)) else "" for name in self.after}
        old = folder.begun(self.name)
        if old is not None:
            done = folder.done(self.name)
            same = (old.fingerprint, old.after) == (self.fingerprint, before)
            over = done is not None and done.started == old.started
            if same and not over and (not self.fresh or old.turn == self.turn):
                return old
            put_aside(self.out, (self.pipeline, Path.cwd()))
        mine = Begun(fingerprint=self.fingerprint, after=before, turn=self.turn, started=now())
        folder.keep(self.name, mine)
        return mine


def put_aside(out: Path, never: Sequence[Path]) -> Path | None:
    """Rename a folder that holds what another stage's settings have made; nothing is deleted.

    Raises:
        ValueError: it holds one of the folders that are `never` moved.
    """
    if not out.exists():
        return None
    for other in never:
        if other.absolute().is_relative_to(out.absolute()):
            raise ValueError(f"{out} holds another stage's result and {other}: give the stage its own `out`")
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    aside = out.with_name(f"{out.name}.before-{stamp}")
    for number in range(1, _MOST):
        if not aside.exists():
            break
        aside = out.with_name(f"{out.name}.before-{stamp}-{number}")
    return out.rename(aside)


def sizes(out: Path, keep: str = "") -> dict[str, int]:
    """Sizes of the files below a folder, without launch records; not of more than can be a stage's result."""
    top = out / keep
    found: dict[str, int] = {}
    for path in sorted(top.rglob("*") if top.is_dir() else ()):
        parts = path.relative_to(out).parts
        records = any(part == LAUNCH or part.endswith(f".{LAUNCH}") for part in parts)
        if path.is_file() and not records and path.name != ".lock":
            found["/".join(parts)] = path.stat().st_size
    return dict(list(found.items())[:_MOST])


def _cpu_seconds() -> float:
    """Of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
