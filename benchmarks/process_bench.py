"""ProcessBench: its files, the scores of a process reward model on them, and F1 by subset.

Scoring goes on where it was stopped: each solution's scores are a line of a journal. Zheng et al. 2024, arXiv
2412.06559; `kit.prm.metrics` has the arithmetic.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kit.prm.metrics import (
    NO_ERROR,
    best_threshold,
    expected_calibration_error,
    first_error,
    process_bench,
    reliability,
)

BINS = 10
LINE_SECONDS = 30.0
"""How often a log that is no terminal hears of the progress."""

ManyScorer = Callable[[str, Sequence[Sequence[str]]], list[list[float]]]
"""(problem, solutions in steps) to the scores of their steps, such as `CheckpointScorer.scores_of_steps`."""


class Solution(BaseModel):
    """One solution of ProcessBench."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    id: str
    problem: str
    steps: Annotated[list[str], Field(min_length=1)]
    label: int
    """Index of the first wrong step, -1 for none."""

    @model_validator(mode="after")
    def _in_range(self) -> "Solution":
        if not NO_ERROR <= self.label < len(self.steps):
            raise ValueError(f"label {self.label}, but there are {len(self.steps)} steps")
        return self

    @property
    def key(self) -> str:
        """What its scores depend on, beside the model."""
        return hashlib.sha256(json.dumps([self.problem, self.steps]).encode()).hexdigest()[:16]


def read_solutions(path: Path) -> list[Solution]:
    """A subset from `.json` (a list), `.jsonl` or `.parquet`.

    Raises:
        ValueError: the file is missing, of another kind, empty, or one of its rows is no solution.
    """
    if not path.is_file():
        raise ValueError(f"ProcessBench file {path} does not exist")
    try:
        rows = _rows(path)
        found = [Solution.model_validate(row) for row in rows]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "row"
        raise ValueError(f"{path} is no subset of ProcessBench ({where}: {first['msg']})") from None
    if not found:
        raise ValueError(f"{path} holds no solution")
    return found


def _rows(path: Path) -> list[Any]:
    try:
        if path.suffix == ".parquet":
            import polars as pl

            return pl.read_parquet(path).to_dicts()
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"ProcessBench file {path} cannot be read: {error}") from None
    return found if isinstance(found, list) else [found]


def fingerprint(folder: Path) -> str:
    """Changes where the checkpoint in a folder does; its weights are not read, only their sizes and dates."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja"):
            digest.update(f"{path.name}\n".encode() + path.read_bytes())
        elif path.suffix == ".safetensors":
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def score_solutions(
    solutions: Sequence[Solution], score: ManyScorer, journal: Path, model: str, console: Console
) -> dict[str, list[float]]:
    """Scores of the steps of each solution by its key; what the journal holds of this model is not redone.

    Args:
        solutions: of all subsets.
        score: the model.
        journal: JSON lines, appended to as each solution is scored.
        model: the model's `fingerprint`; lines of another model are left alone.
        console: where the progress is shown.
    """
    wanted = {one.key: one for one in solutions}
    done = {key: scores for key, scores in _journalled(journal, model) if key in wanted}
    rest = [one for key, one in wanted.items() if key not in done]
    journal.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("solutions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    told = time.monotonic()
    with (
        journal.open("a", encoding="ascii") as file,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        if journal.stat().st_size and not journal.read_bytes().endswith(b"\n"):
            file.write("\n")
        task = bar.add_task("", total=len(wanted), completed=len(done))
        for one in rest:
            [done[one.key]] = score(one.problem, [one.steps])
            assert len(done[one.key]) == len(one.steps), "one score a step"
            written = [value if math.isfinite(value) else None for value in done[one.key]]
            file.write(json.dumps({"model": model, "key": one.key, "scores": written}) + "\n")
            file.flush()
            bar.advance(task)
            if not console.is_terminal and time.monotonic() - told >= LINE_SECONDS:
                told = time.monotonic()
                console.print(f"{len(done)} of {len(wanted)} solutions scored", highlight=False)
    return done


def _journalled(path: Path, model: str) -> Iterator[tuple[str, list[float]]]:
    """(key, scores) of the whole lines of this model."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            scores = [math.nan if value is None else float(value) for value in row["scores"]]
            key, same = str(row["key"]), row["model"] == model
        except (ValueError, TypeError, KeyError):
            # A line that a kill cut off: its solution is scored again.
            continue
        if same:
            yield key, scores


def judge(
    subsets: Mapping[str, Sequence[Solution]], scores: Mapping[str, Sequence[float]], tune_on: str
) -> dict[str, Any]:
    """F1 of each subset at the threshold that is best on `tune_on`, and how calibrated the scores are.

    Of a solution the steps up to the first wrong one are labelled; what comes after it is not.

    Raises:
        ValueError: `tune_on` is no subset, or lacks solutions of a kind.
    """
    if tune_on not in subsets:
        raise ValueError(f"the threshold is to be chosen on {tune_on!r}, but there are: {', '.join(subsets)}")
    tuned = subsets[tune_on]
    threshold = best_threshold([scores[one.key] for one in tuned], [one.label for one in tuned])
    rows = []
    for name, solutions in subsets.items():
        predicted = [first_error(scores[one.key], threshold.value) for one in solutions]
        found = process_bench(predicted, [one.label for one in solutions])
        curve = reliability(*_labelled(solutions, scores), bins=BINS)
        rows.append(
            {
                "subset": name,
                "solutions": len(solutions),
                **found._asdict(),
                "ece": expected_calibration_error(curve),
                "reliability": [[one.confidence, one.accuracy, one.size] for one in curve if one.size],
            }
        )
    return {"threshold": threshold.value, "tuned_on": tune_on, "subsets": rows}


def _labelled(
    solutions: Sequence[Solution], scores: Mapping[str, Sequence[float]]
) -> tuple[list[float], list[bool]]:
    """Probability of each labelled step with a finite score, and whether it is right."""
    probabilities, right = [], []
    for one in solutions:
        last = len(one.steps) - 1 if one.label == NO_ERROR else one.label
        for index, score in enumerate(scores[one.key][: last + 1]):
            if math.isfinite(score):
                probabilities.append(min(max(score, 0.0), 1.0))
                right.append(index != one.label)
    return probabilities, right
