"""`metrics.jsonl`: what a run measured, a line for every step, evaluation and event. Strict JSON.

    {"kind": "train", "step": 10, "values": {"loss": 0.5, "grad_norm": null},
     "nonfinite": {"grad_norm": "nan"}, "time": {"seconds": 1.2}}

Everything but `time` is the same in an undisturbed run and in one that was killed and resumed.
"""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from submission.files import atomic_writer

log = logging.getLogger(__name__)

Kind = Literal["train", "eval", "event"]
Value = float | int | str | bool
_KINDS = ("train", "eval", "event")
_NONFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class MetricLine:
    """One line. Values that are not finite are themselves here: NaN, inf, -inf."""

    kind: Kind
    step: int
    values: dict[str, Value]
    time: dict[str, float] = field(default_factory=dict)


class MetricsFile:
    """Appends lines to `path`; every line is handed to the system at once, so a killed run loses none.

    At resume the file is cut, atomically, to the lines of steps up to `resume_step`: the steps after it are
    done again. Without `resume_step` it starts empty. A torn last line is dropped; other broken lines too,
    with a warning. Call `sync` before the checkpoint of a step, so that the file is never behind it.
    """

    def __init__(self, path: Path, resume_step: int | None) -> None:
        self.path = Path(path)
        with atomic_writer(self.path) as file:
            if resume_step is not None and self.path.exists():
                file.writelines(self._kept(resume_step))
        self._file: IO[bytes] = self.path.open("ab", buffering=0)

    def _kept(self, resume_step: int) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    step = _parse(raw).step
                except ValueError as error:
                    if raw.endswith(b"\n"):
                        log.warning("%s line %d is dropped: %s", self.path, number, error)
                    continue
                if step <= resume_step:
                    yield raw if raw.endswith(b"\n") else raw + b"\n"

    def write(
        self,
        step: int,
        values: Mapping[str, Value],
        timings: Mapping[str, float] | None = None,
        kind: Kind = "train",
    ) -> None:
        """Append one line. `values` must not depend on the clock; what does goes to `timings`.

        Raises:
            ValueError: a value is neither number nor text.
            OSError: the line could not be written.
        """
        nonfinite = {
            name: str(float(value))
            for name, value in values.items()
            if isinstance(value, float) and not math.isfinite(value)
        }
        # JSON has no such numbers: null, and the name beside it.
        finite = {name: None if name in nonfinite else value for name, value in values.items()}
        line: dict[str, Any] = {"kind": kind, "step": step, "values": finite}
        if nonfinite:
            line["nonfinite"] = nonfinite
        line["time"] = {name: value for name, value in (timings or {}).items() if math.isfinite(value)}
        try:
            text = json.dumps(line, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metrics of step {step}: {error}") from None
        data = text.encode() + b"\n"
        if self._file.write(data) != len(data):
            raise OSError(f"{self.path}: the line of step {step} was written in part only; is the disk full?")

    def sync(self) -> None:
        """Make all lines durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> Iterator[MetricLine]:
    """The lines of a metrics file in order, of a running one too: a torn last line is not there yet.

    Raises:
        ValueError: a line is not one of `MetricsFile`'s; the message names it.
    """
    with Path(path).open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                yield _parse(raw)
            except ValueError as error:
                if raw.endswith(b"\n"):
                    raise ValueError(f"{path} line {number}: {error}") from None


def _parse(raw: bytes) -> MetricLine:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("kind") not in _KINDS or type(data.get("step")) is not int:
        raise ValueError("not an object with kind and step")
    values, nonfinite, time = (data.get(key, {}) for key in ("values", "nonfinite", "time"))
    if not (isinstance(values, dict) and isinstance(nonfinite, dict) and isinstance(time, dict)):
        raise ValueError("values, nonfinite and time must be objects")
    found: dict[str, Value] = {}
    for name, value in values.items():
        if value is None and nonfinite.get(name) in _NONFINITE:
            found[name] = _NONFINITE[nonfinite[name]]
        elif isinstance(value, float | int | str):
            found[name] = value
        else:
            raise ValueError(f"values: {name} is neither number nor text")
    if not all(isinstance(value, float | int) for value in time.values()):
        raise ValueError("time: not all are numbers")
    return MetricLine(data["kind"], data["step"], found, {name: float(value) for name, value in time.items()})
