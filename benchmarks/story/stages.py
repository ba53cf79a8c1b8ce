"""The record of a pipeline's stages, and where each lies on the pipeline's wall-clock."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
THINNEST = 0.4
"""Percent of the line: what took less is seen all the same."""


class Stage(BaseModel):
    """One stage as the pipeline records it.

    Args:
        name: of the stage.
        after: names of the stages that it waits for.
        command: what it runs.
        started: ISO 8601 with its zone; None or "" where nothing was started.
        seconds: of wall-clock; of a skipped stage, those of the run that made its output.
        skipped: taken over from an earlier run.
        cpu_seconds: of all its processes; None where it is not known.
        out: what it writes.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Annotated[str, Field(min_length=1)]
    after: tuple[str, ...] = ()
    command: str = ""
    started: AwareDatetime | None = None
    seconds: Seconds
    skipped: bool = False
    cpu_seconds: Seconds | None = None
    out: str = ""

    @field_validator("started", mode="before")
    @classmethod
    def _blank_is_none(cls, value: object) -> object:
        return value or None


class Record(BaseModel):
    """All stages that have ended, in the pipeline's order, and its wall-clock until then."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    seconds: Seconds | None = None


@dataclass(frozen=True)
class Bar:
    """A stage and its stretch of the line, in percent; none of a skipped one (`width` 0)."""

    stage: Stage
    left: float
    width: float


@dataclass(frozen=True)
class Chart:
    """All stages against the wall-clock.

    Args:
        bars: in the record's order.
        seconds: of wall-clock, the length of the line; 0 where every stage was skipped.
        cpu_seconds: of the stages that were run; None where one of them does not tell.
        saved: seconds that skipped stages took when they were run.
        skipped: how many.
    """

    bars: tuple[Bar, ...]
    seconds: float
    cpu_seconds: float | None
    saved: float
    skipped: int


def read_record(path: Path) -> Record:
    """Read a pipeline's record.

    Raises:
        ValueError: it cannot be read, or is no such record.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"--stages {path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"--stages {path} is no pipeline's record: {place}: {first['msg']}") from None


def chart(record: Record) -> Chart:
    """Lay the stages on a line that begins with the first start.

    A stage that was run and does not tell its start begins where the one before it ended.
    """
    run = [one for one in record.stages if not one.skipped]
    known = [one.started.timestamp() for one in run if one.started is not None]
    origin = min(known, default=0.0)
    places: list[tuple[float, float]] = []
    end = 0.0
    for one in record.stages:
        if one.skipped:
            places.append((0.0, 0.0))
            continue
        begun = end if one.started is None else one.started.timestamp() - origin
        end = begun + one.seconds
        places.append((begun, end))
    length = max([record.seconds or 0.0, *(stop for _, stop in places)]) if run else 0.0

    def share(seconds: float) -> float:
        return round(100 * seconds / length, 2) if length else 0.0

    bars = []
    for one, (begun, stop) in zip(record.stages, places, strict=True):
        width = 0.0 if one.skipped else max(THINNEST, round(share(stop) - share(begun), 2))
        bars.append(Bar(one, min(share(begun), 100 - width), width))
    cpu = [one.cpu_seconds for one in run]
    return Chart(
        bars=tuple(bars),
        seconds=length,
        cpu_seconds=None if None in cpu or not cpu else sum(one for one in cpu if one is not None),
        saved=sum(one.seconds for one in record.stages if one.skipped),
        skipped=sum(one.skipped for one in record.stages),
    )
