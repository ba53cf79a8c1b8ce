"""A step's completions as a parquet table: what is trained on, looked at, and gone on from after a kill.

One file a step, `rollouts/step-00000012.parquet`, written in one rename before the first update. Rank 0
writes, every rank reads: what was trained on is what stands there. 13 bytes a token before compression.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from kit.grpo.curriculum import Pick
from kit.grpo.rollout import Completion, Failure
from kit.rewards.judge import Scored
from submission.files import atomic_writer


@dataclass(frozen=True)
class Group:
    """All completions of one prompt.

    Args:
        pick: the prompt.
        completions: as drawn; a lost one is a `Failure`.
        scored: their rewards, in the same order; total NaN where missing.
    """

    pick: Pick
    completions: Sequence[Completion | Failure]
    scored: Sequence[Scored]

    @property
    def pass_rate(self) -> float | None:
        """Share of right answers among the completions that there are; None where all were lost."""
        verdicts = [item.correct for item in self.scored if item.correct is not None]
        return sum(verdicts) / len(verdicts) if verdicts else None


@dataclass(frozen=True)
class Rollouts:
    """One step's groups.

    Args:
        groups: those to train on.
        next_position: of the prompt stream, for the step after.
        rates: pass rate by prompt, of the last group drawn of it, those that were replaced included.
        rounds: times that groups were replaced.
        replaced: groups that were.
        reasons: why samples or rewards are missing, by count.
    """

    groups: Sequence[Group]
    next_position: int
    rates: dict[int, float] = field(default_factory=dict)
    rounds: int = 0
    replaced: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def table_path(folder: Path, step: int) -> Path:
    """Of the step's table."""
    return folder / f"step-{step:08d}.parquet"


def write_table(
    path: Path, rollouts: Rollouts, run: str, problems: Sequence[tuple[str, str]], advantages: Sequence[float]
) -> None:
    """Write a step's table atomically.

    Args:
        run: digest of the run's identity; a table of another run is not read back.
        problems: text and gold answer of each group's prompt.
        advantages: of each completion, group by group.
    """
    rows: list[dict[str, Any]] = []
    for group, (problem, gold) in zip(rollouts.groups, problems, strict=True):
        for attempt, (completion, scored) in enumerate(zip(group.completions, group.scored, strict=True)):
            drawn = completion if isinstance(completion, Completion) else None
            rows.append(
                {
                    "prompt": group.pick.prompt,
                    "position": group.pick.position,
                    "attempt": attempt,
                    "problem": problem,
                    "gold": gold,
                    "completion": drawn.text if drawn else "",
                    "finish": drawn.finish if drawn else "",
                    "tokens": len(drawn.ids) if drawn else 0,
                    "correct": scored.correct,
                    "reward": scored.total,
                    "parts": json.dumps(scored.parts),
                    "reason": completion.reason if isinstance(completion, Failure) else scored.reason,
                    "advantage": advantages[len(rows)],
                    "tool_calls": drawn.tool_calls if drawn else 0,
                    "tool_errors": drawn.tool_errors if drawn else 0,
                    "ids": drawn.ids if drawn else (),
                    "logprobs": drawn.logprobs if drawn else (),
                    "mask": drawn.mask if drawn else (),
                }
            )
    about = {
        "run": run,
        "next_position": rollouts.next_position,
        "rates": {str(prompt): rate for prompt, rate in rollouts.rates.items()},
        "rounds": rollouts.rounds,
        "replaced": rollouts.replaced,
        "reasons": rollouts.reasons,
    }
    columns = {name: _column(name, kind, [row[name] for row in rows]) for name, kind in _SCHEMA.items()}
    frame = pl.DataFrame(columns).with_columns(pl.lit(json.dumps(about)).alias("about"))
    with atomic_writer(path) as file:
        frame.write_parquet(file, compression="zstd")


def _column(name: str, kind: Any, values: Sequence[Any]) -> pl.Series:
    if name in _ARRAYS:  # as one array and where each row ends: four times as fast as row by row
        ends = np.cumsum([0, *map(len, values)], dtype=np.int64)
        flat = np.fromiter(chain.from_iterable(values), _ARRAYS[name], int(ends[-1]))
        # Of buffers: what takes arrays imports pandas.
        item = pa.from_numpy_dtype(flat.dtype)
        inner = pa.Array.from_buffers(item, len(flat), [None, pa.py_buffer(flat)])
        buffers = [None, pa.py_buffer(ends)]
        lists = pa.Array.from_buffers(pa.large_list(item), len(values), buffers, children=[inner])
        return pl.Series(name, lists, dtype=kind)
    return pl.Series(name, values, dtype=kind)


_ARRAYS: dict[str, Any] = {"ids": np.int32, "logprobs": np.float64, "mask": np.uint8}
_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("prompt", "position", "attempt"), pl.Int64),
    **dict.fromkeys(("problem", "gold", "completion", "finish"), pl.String),
    "tokens": pl.Int64,
    "correct": pl.Boolean,
    "reward": pl.Float64,
    "parts": pl.String,
    "reason": pl.String,
    "advantage": pl.Float64,
    **dict.fromkeys(("tool_calls", "tool_errors"), pl.Int64),
    "ids": pl.List(pl.Int32),
    "logprobs": pl.List(pl.Float64),
    "mask": pl.List(pl.UInt8),
}


_READ = [name for name in _SCHEMA if name not in {"attempt", "problem", "gold", "tokens", "advantage"}]


def read_table(path: Path, run: str) -> Rollouts | None:
    """A step's roll-outs, or None where there is no table, or one of another run or another format."""
    found = _read(path, run, _READ)
    if found is None:
        return None
    frame, about = found
    # Column by column: a call into polars for each, not for each value.
    columns = frame.to_dict(as_series=False)
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    groups = []
    for (prompt, position), members in groupby(rows, lambda row: (row["prompt"], row["position"])):
        group = list(members)
        made = [_completion(row) for row in group], [_scored(row) for row in group]
        groups.append(Group(Pick(prompt, position), *made))
    told = {name: about[name] for name in ("next_position", "rounds", "replaced", "reasons")}
    return Rollouts(groups, rates=_rates(about), **told)


def read_pass_rates(folder: Path, steps: int, run: str) -> tuple[dict[int, float], int]:
    """Last pass rates by prompt after `steps` steps, and where the prompt stream goes on.

    Raises:
        ValueError: a table is gone.
    """
    rates: dict[int, float] = {}
    position = 0
    for step in range(steps):
        path = table_path(folder, step)
        found = _read(path, run, (), rows=1)
        if found is None:
            raise ValueError(
                f"{path} is missing or of another run, but step {step + 1} is done: put it back, or start in "
                "another folder (out=...)"
            )
        _, about = found
        rates |= _rates(about)
        position = about["next_position"]
    return rates, position


def _rates(about: dict[str, Any]) -> dict[int, float]:
    return {int(prompt): rate for prompt, rate in about["rates"].items()}


def _read(
    path: Path, run: str, columns: Sequence[str], rows: int | None = None
) -> tuple[pl.DataFrame, dict[str, Any]] | None:
    """Columns of a table, and what it says of itself; None where there is none of this run that is whole."""
    if not path.is_file():
        return None
    try:
        frame = pl.read_parquet(path, columns=[*columns, "about"], n_rows=rows)
        about = json.loads(frame["about"][0])
    except (pl.exceptions.PolarsError, OSError, ValueError, IndexError):
        return None  # cut short by a full disk, say: it is drawn again
    return (frame.drop("about"), about) if isinstance(about, dict) and about.get("run") == run else None


def _completion(row: dict[str, Any]) -> Completion | Failure:
    if not row["finish"]:
        return Failure(row["reason"])
    return Completion(
        ids=tuple(row["ids"]),
        logprobs=tuple(row["logprobs"]),
        mask=tuple(row["mask"]),
        text=row["completion"],
        finish=row["finish"],
        tool_calls=row["tool_calls"],
        tool_errors=row["tool_errors"],
    )


def _scored(row: dict[str, Any]) -> Scored:
    return Scored(row["reward"], json.loads(row["parts"]), row["correct"], row["reason"])
