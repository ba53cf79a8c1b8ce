"""A step's completions as a parquet table: what is trained on, looked at, and gone on from after a kill.

One file a step, `rollouts/step-00000012.parquet`, written in one rename before the first update. Rank 0
writes, every rank reads: what was trained on is what stands there. 13 bytes a token before compression.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

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
                    "ids": list(drawn.ids) if drawn else [],
                    "logprobs": list(drawn.logprobs) if drawn else [],
                    "mask": list(drawn.mask) if drawn else [],
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
    # By columns: polars reads a column of arrays faster than rows of lists.
    columns = {name: _column(name, kind, rows) for name, kind in _SCHEMA.items()}
    frame = pl.DataFrame(columns).with_columns(pl.lit(json.dumps(about)).alias("about"))
    with atomic_writer(path) as file:
        frame.write_parquet(file, compression="zstd")


def _column(name: str, kind: Any, rows: Sequence[dict[str, Any]]) -> pl.Series:
    values: list[Any] = [row[name] for row in rows]
    if name in _ARRAYS:
        values = [np.asarray(value, _ARRAYS[name]) for value in values]
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


def read_table(path: Path, run: str) -> Rollouts | None:
    """A step's roll-outs, or None where there is no table, or one of another run or another format."""
    about = _about(path, run)
    if about is None:
        return None
    frame = pl.read_parquet(path)
    groups = []
    for part in frame.partition_by("position", maintain_order=True):
        rows = list(part.iter_rows(named=True))
        pick = Pick(rows[0]["prompt"], rows[0]["position"])
        groups.append(Group(pick, [_completion(row) for row in rows], [_scored(row) for row in rows]))
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
        about = _about(path, run)
        if about is None:
            raise ValueError(
                f"{path} is missing or of another run, but step {step + 1} is done: put it back, or start in "
                "another folder (out=...)"
            )
        rates |= _rates(about)
        position = about["next_position"]
    return rates, position


def _rates(about: dict[str, Any]) -> dict[int, float]:
    return {int(prompt): rate for prompt, rate in about["rates"].items()}


def _about(path: Path, run: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        text = pl.read_parquet(path, columns=["about"], n_rows=1)["about"][0]
        about = json.loads(text)
    except (pl.exceptions.PolarsError, OSError, ValueError, IndexError):
        return None  # cut short by a full disk, say: it is drawn again
    return cast("dict[str, Any]", about) if isinstance(about, dict) and about.get("run") == run else None


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
