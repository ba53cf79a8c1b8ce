"""What a step trains on: token rows that know their steps, and how they are kept on disk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.training.rows import TokenRow, TokenTable, write_table
from submission.prm.heads import Head
from submission.prm.layout import Layout

_NONE: npt.NDArray[Any] = np.empty(0)


@dataclass(frozen=True)
class StepRow(TokenRow):
    """One sequence whose mask marks the tokens that its steps are read from.

    Args:
        sizes: [S] marked tokens of each step, in order: 1 where a classifier is read, else its span's.
        labels: [S] chance that the step is right, 0 to 1; NaN for a step that only others need (in the
            prefix of a later one).
    """

    sizes: npt.NDArray[np.int64] = field(default_factory=lambda: _NONE.astype(np.int64))
    labels: npt.NDArray[np.float64] = field(default_factory=lambda: _NONE.astype(np.float64))

    @property
    def labelled(self) -> int:
        """Steps with a label."""
        return int(np.isfinite(self.labels).sum())


def step_row(
    layout: Layout, labels: Sequence[float | None], source: int, *, head: Head, span: str = "step"
) -> StepRow | None:
    """The row of a layout; None where no step of it has a label that can be read.

    Args:
        labels: one for each step that the layout scores.
        span: of `logprob`: "step", or "prefix" for all steps up to each.
    """
    assert len(labels) == len(layout.ends) == len(layout.spans), "one label and one place a step"
    known = [index for index, label in enumerate(labels) if label is not None]
    if not known:
        return None
    wanted = range(known[-1] + 1) if head == "logprob" and span == "prefix" else known
    mask = np.zeros(len(layout.ids), np.uint8)
    sizes = []
    for index in wanted:
        begin, end = (
            layout.spans[index] if head == "logprob" else (layout.ends[index], layout.ends[index] + 1)
        )
        begin = max(begin, 1)  # nothing predicts the first token
        mask[begin:end] = 1
        sizes.append(max(0, end - begin))
    if not mask.any():
        return None
    values = [np.nan if labels[index] is None else float(labels[index] or 0.0) for index in wanted]
    made = StepRow(
        np.array(layout.ids, np.int32), mask, source, np.array(sizes, np.int64), np.array(values, np.float64)
    )
    assert sum(sizes) == int(mask.sum()), "steps do not overlap"
    return made


def labelled_steps(rows: Iterable[TokenRow]) -> int:
    """Labelled steps of the rows together; those of a rank's filler are none."""
    return sum(row.labelled for row in rows if isinstance(row, StepRow))


class StepTable:
    """Rows in a folder, read lazily."""

    def __init__(self, folder: Path) -> None:
        self._rows = TokenTable(folder)
        steps = folder.with_name(f"{folder.name}-steps")
        self._sizes, self.labels, ends = (
            np.load(steps / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("sizes", "labels", "ends")
        )
        self._ends = [0, *ends.tolist()]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> StepRow:
        row = self._rows[index]
        part = slice(self._ends[index], self._ends[index + 1])
        return StepRow(
            row.ids, row.mask, row.source, np.array(self._sizes[part]), np.array(self.labels[part])
        )

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return self._rows.lengths


def write_steps_table(folder: Path, rows: Sequence[StepRow], about: dict[str, object]) -> None:
    """Write the token table `folder`, and `folder`-steps beside it; the second comes first."""
    steps = folder.with_name(f"{folder.name}-steps")
    steps.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, npt.NDArray[Any]] = {
        "sizes": np.concatenate([row.sizes for row in rows]),
        "labels": np.concatenate([row.labels for row in rows]),
        "ends": np.cumsum([len(row.sizes) for row in rows], dtype=np.int64),
    }
    for name, array in arrays.items():
        np.save(steps / f"{name}.npy", array, allow_pickle=False)
    write_table(folder, rows, about)
