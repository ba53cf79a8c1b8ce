"""A run's folder as its page needs it: figures, environment, and what happened at every problem."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.run.gathering import Played, gather
from benchmarks.run.plan import CONFIG
from benchmarks.run.reading import LoadedRun, load_run
from benchmarks.run.tables import ANSWERS, ENVIRONMENT, RESULTS, SAMPLES
from submission.journal import CallLine, OpinionLine, read_journal

PROBLEMS = "problems.json"
"""Texts of the run's problems: {set: {id: text}}."""


@dataclass(frozen=True)
class Try:
    """One sample, with its PRM scores (one a step) and tool calls."""

    attempt: int
    role: str
    answer: str | None
    right: bool
    tokens: int
    seconds: float
    finish: str
    score: float | None
    steps: tuple[float, ...]
    text: str
    calls: tuple[CallLine, ...]


@dataclass(frozen=True)
class Vote:
    """An answer, how many samples gave it (`percent` of those with an answer), and their mean PRM score."""

    answer: str
    count: int
    percent: int
    right: bool
    score: float | None


@dataclass(frozen=True)
class Solved:
    """One problem in one repeat; `how` says by which rule the answer was chosen, "" where nothing tells."""

    repeat: int
    answer: str | None
    right: bool
    source: str
    seconds: float
    tokens: int
    stopped: str
    how: str
    votes: tuple[Vote, ...]
    tries: tuple[Try, ...]
    opinions: tuple[OpinionLine, ...]


@dataclass(frozen=True)
class Story:
    """One problem in all repeats; `text` is "" where the folder does not hold it."""

    id: str
    text: str
    gold: str
    solved: tuple[Solved, ...]


def read_finished(folder: Path) -> LoadedRun:
    """A run that was played to its end.

    Raises:
        ValueError: the folder holds no run, or an interrupted one.
    """
    config: dict[str, Any] = {}
    if (folder / CONFIG).is_file():
        try:
            config = json.loads((folder / CONFIG).read_bytes())
            wanted = int(config["repeat"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / CONFIG} cannot be read: {error}") from None
        if not (folder / RESULTS).is_file():
            raise ValueError(f"{folder} holds an unfinished run: the command that began it continues it")
    found = load_run(folder)
    if config and wanted != found.results.get("repeat"):
        raise ValueError(
            f"{folder} holds an unfinished run: {wanted} repeats were asked for, the results are of "
            f"{found.results.get('repeat')}; the command that began it continues it"
        )
    missing = sorted(set(found.results.get("sets", {})) - set(found.sets))
    if missing or not found.sets:
        raise ValueError(f"{folder} holds no answers for its sets {', '.join(missing)}")
    return found


def read_environment(folder: Path) -> dict[str, Any]:
    """What the run was made on; empty where the folder does not tell."""
    return _optional(folder / ENVIRONMENT)


def read_stories(run: LoadedRun) -> dict[str, tuple[Story, ...]]:
    """Every problem of every set, in the sets' order.

    Raises:
        ValueError: a table of the folder cannot be read, or has not the columns that `benchmarks.run` writes.
    """
    import polars as pl

    folder = run.folder
    try:
        schema = {"id": pl.String, "set": pl.String, "answer": pl.String, "gold": pl.String}
        answers = pl.read_csv(folder / ANSWERS, schema_overrides=schema).to_dicts()
        samples: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
        for row in pl.read_parquet(folder / SAMPLES).iter_rows(named=True):
            samples.setdefault((row["set"], row["repeat"], row["problem_id"]), []).append(row)
        texts = _optional(folder / PROBLEMS)
        journals: dict[tuple[str, int], Mapping[str, Played]] = {}
        found: dict[str, dict[str, list[Solved]]] = {}
        golds: dict[tuple[str, str], str] = {}
        for row in answers:
            name, repeat, problem = row["set"], row["repeat"], row["id"]
            golds[name, problem] = row["gold"]
            if (name, repeat) not in journals:
                journals[name, repeat] = _journal(folder, name, repeat)
            solved = _solved(
                row, samples.get((name, repeat, problem), []), journals[name, repeat].get(problem)
            )
            found.setdefault(name, {}).setdefault(problem, []).append(solved)
    except (OSError, KeyError, pl.exceptions.PolarsError) as error:
        first = str(error).partition("\n")[0][:200]
        raise ValueError(f"{folder}: its tables cannot be read: {first}") from None
    return {
        name: tuple(
            Story(key, str(texts.get(name, {}).get(key, "")), golds[name, key], tuple(solved))
            for key, solved in problems.items()
        )
        for name, problems in found.items()
    }


def _optional(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found: object = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} cannot be read: it holds no JSON object")
    return found


def _journal(folder: Path, name: str, repeat: int) -> Mapping[str, Played]:
    """Tool calls and opinions are in the contest's journal alone; a folder without journals has none."""
    path = folder / "contests" / f"{name}-{repeat}" / "submission.journal.jsonl"
    return gather(read_journal(path)).problems if path.is_file() else {}


def _solved(row: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], played: Played | None) -> Solved:
    drawn = {} if played is None else {one.attempt: one.line for one in played.samples}
    line = None if played is None else played.answer
    tries = tuple(
        Try(
            attempt=one["attempt"],
            role=one["role"] or "",
            answer=one["answer"],
            right=one["isCorrect"],
            tokens=one["total_tokens"],
            seconds=one["time"],
            finish=one["finish"],
            score=one["score"],
            steps=tuple(one["steps"] or ()),
            text=one["solution"],
            calls=tuple(drawn[one["attempt"]].calls) if one["attempt"] in drawn else (),
        )
        for one in samples
    )
    how = ""
    if line is not None and line.rule:
        plain = "nothing" if line.plain is None else str(line.plain)
        how = f"Chosen by {line.rule}; the plain vote says {plain}."
    return Solved(
        repeat=row["repeat"],
        answer=row["answer"],
        right=row["right"],
        source=row["source"],
        seconds=row["seconds"],
        tokens=row["tokens"],
        stopped=row["stopped"] or "",
        how=how,
        votes=votes_of(tries),
        tries=tries,
        opinions=() if line is None else tuple(line.opinions),
    )


def votes_of(tries: Sequence[Try]) -> tuple[Vote, ...]:
    """Answers by their number of samples, the first to come first among equals."""
    counts = Counter(one.answer for one in tries if one.answer is not None)
    found = []
    for answer, count in counts.most_common():
        mine = [one for one in tries if one.answer == answer]
        scores = [one.score for one in mine if one.score is not None]
        found.append(
            Vote(
                answer,
                count,
                round(100 * count / counts.total()),
                mine[0].right,
                sum(scores) / len(scores) if scores else None,
            )
        )
    return tuple(found)
