"""`LabelledSolution`: a solution cut into steps, each with the chance that it is right. PRMs' data."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from submission.files import atomic_writer

Label = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None
"""1 is right, 0 wrong, between them an estimate (the share of roll-outs that end well); None is unknown."""


class LabelledSolution(BaseModel):
    """One solution of one problem, as many labels as steps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: str = Field(min_length=1)
    steps: tuple[str, ...] = Field(min_length=1)
    labels: tuple[Label, ...]
    source: str = ""
    """Name of the set that it came from."""
    id: str = ""
    """The set's own name of the row; empty where it has none."""
    first_error: int | None = Field(default=None, ge=-1)
    """Index of the first wrong step, -1 for none, where the set says so; None: the first label below 1/2."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.steps) != len(self.labels):
            raise ValueError(f"{len(self.steps)} steps but {len(self.labels)} labels")
        if self.first_error is not None and self.first_error >= len(self.steps):
            raise ValueError(f"first_error is {self.first_error}, and there are {len(self.steps)} steps")
        for number, step in enumerate(self.steps, 1):
            if not step.strip():
                raise ValueError(f"step {number} of {len(self.steps)} is empty")
        return self

    @property
    def problem_id(self) -> str:
        """Twelve hex digits that depend on the problem's text only, as `Record.problem_id`."""
        return hashlib.sha256(self.problem.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def dump_labelled(record: LabelledSolution) -> str:
    """One JSON line without its newline."""
    return json.dumps(record.model_dump(exclude_defaults=True))


def write_labelled(path: Path, records: Iterable[LabelledSolution]) -> int:
    """Write a file of step records atomically; returns how many it holds."""
    count = 0
    with atomic_writer(path) as file:
        for record in records:
            file.write(dump_labelled(record).encode("ascii") + b"\n")
            count += 1
    return count
