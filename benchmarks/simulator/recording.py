"""Recorded samples: a run of `benchmarks.run`, a contest's journal, or any file that `kit.attempts` reads."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import attempts as replayed
from benchmarks.run.gathering import ENDED, gather
from benchmarks.run.tables import SAMPLES
from kit.attempts import read_attempts
from submission.answers import parse_gold
from submission.journal import JournalContent, ProblemLine, read_journal

COLUMNS = (
    "set",
    "repeat",
    "problem_id",
    "attempt",
    "answer",
    "isCorrect",
    "total_tokens",
    "time",
    "ended_at",
)
MORE = ("finish", "logprob", "steps")


@dataclass(frozen=True)
class Taken:
    """One recorded sample.

    Args:
        problem: its id; with the set's name before it where the file holds several sets.
        contest: what it was drawn in: samples of one problem and contest ran side by side.
        attempt: its number in there.
        answer: as votes count; None for none.
        right: whether that is right.
        tokens: completion tokens.
        seconds: how long it ran; NaN where that was not recorded.
        begun: seconds of its problem at its start; NaN where that was not recorded.
        ended: whether it ended by itself; the length of others is unknown.
        logprob: sum, nats; NaN where unknown.
        steps: scores of its steps by a process reward model; empty where unscored.
    """

    problem: str
    contest: str
    attempt: int
    answer: Hashable | None
    right: bool
    tokens: int
    seconds: float
    begun: float = math.nan
    ended: bool = True
    logprob: float = math.nan
    steps: tuple[float, ...] = ()


def read_recording(paths: Sequence[Path], answers: Path | None = None) -> list[Taken]:
    """All samples of these recordings.

    Args:
        paths: folders of runs, their samples.parquet, or other files of attempts.
        answers: csv of `id` and `answer`, for files that do not tell who is right (a contest's journal).

    Raises:
        ValueError: a file is missing, damaged, of no known format, or holds no sample.
    """
    found: list[Taken] = []
    for path in paths:
        file = path / SAMPLES if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"recording {file} does not exist")
        if _is_run(file):
            found += _from_run(file)
        elif file.suffix == ".jsonl" and (journal := read_journal(file)).of(ProblemLine):
            found += _from_journal(file, journal, answers)
        else:
            found += _from_attempts(file, answers)
    if not found:
        raise ValueError(f"no sample in {', '.join(map(str, paths))}")
    return found


def _is_run(file: Path) -> bool:
    import polars as pl

    if file.suffix != ".parquet":
        return False
    try:
        return "ended_at" in pl.read_parquet_schema(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"recording {file} cannot be read: {error}") from None


def _from_run(file: Path) -> list[Taken]:
    import polars as pl

    try:
        table = pl.read_parquet(file, columns=[*COLUMNS, *MORE])
    except (pl.exceptions.PolarsError, OSError) as error:
        first = str(error).partition("\n")[0][:200]
        raise ValueError(f"recording {file} is not a run's samples: {first}") from None
    several = table["set"].n_unique() > 1
    # An engine that failed says nothing of the model.
    rows = table.filter(pl.col("finish") != "error").iter_rows(named=True)
    return [
        Taken(
            problem=f"{row['set']}/{row['problem_id']}" if several else str(row["problem_id"]),
            contest=f"{file}/{row['set']}/{row['repeat']}",
            attempt=row["attempt"],
            answer=row["answer"],
            right=bool(row["isCorrect"]),
            tokens=row["total_tokens"],
            seconds=row["time"],
            begun=max(0.0, row["ended_at"] - row["time"]),
            ended=row["finish"] in ENDED,
            logprob=math.nan if row["logprob"] is None else row["logprob"],
            steps=tuple(row["steps"] or ()),
        )
        for row in rows
    ]


def _from_journal(file: Path, journal: JournalContent, answers: Path | None) -> list[Taken]:
    """A contest's journal, whose lines tell when each sample ran."""
    if answers is None:
        raise ValueError(f"recording {file} is a contest's journal: --answers names a csv of id and answer")
    golds = _golds(answers)
    found = []
    for problem in gather(journal).problems.values():
        if problem.id not in golds:
            raise ValueError(f"--answers {answers} has no problem {problem.id!r}, which {file} has")
        for drawn in problem.samples:
            if drawn.line.finish == "error":
                continue
            found.append(
                Taken(
                    problem=problem.id,
                    contest=str(file),
                    attempt=drawn.attempt,
                    answer=drawn.line.answer,
                    right=drawn.line.answer is not None and drawn.line.answer == golds[problem.id],
                    tokens=drawn.line.tokens,
                    seconds=drawn.line.seconds,
                    begun=max(0.0, drawn.ended_at - drawn.line.seconds),
                    ended=drawn.line.finish in ENDED,
                    logprob=math.nan if drawn.line.logprob is None else drawn.line.logprob,
                    steps=drawn.steps,
                )
            )
    return found


def _golds(answers: Path) -> dict[str, int | None]:
    """Right answers by id; None for one that is no integer, which no contest's answer equals."""
    import polars as pl

    try:
        table = pl.read_csv(answers, columns=["id", "answer"], infer_schema=False)
        return {name: parse_gold(text).integer for name, text in table.select("id", "answer").iter_rows()}
    except (pl.exceptions.PolarsError, OSError, ValueError, TypeError) as error:
        first = str(error).partition("\n")[0][:200]
        raise ValueError(f"--answers {answers}: expected a csv of id and answer: {first}") from None


def _from_attempts(file: Path, answers: Path | None) -> list[Taken]:
    found = []
    problems = read_attempts([file], answers=answers)
    lengths = [[candidate.tokens for candidate in problem.candidates] for problem in problems]
    if file.suffix == ".jsonl" and not any(map(any, lengths)):
        # An evaluation harness keeps texts alone: they tell about how many tokens there were.
        lengths = [[attempt.tokens for attempt in one] for one in replayed.read_attempts(file)]
    for problem, counts in zip(problems, lengths, strict=True):
        labelled = zip(problem.candidates, problem.right, counts, strict=True)
        for number, (candidate, right, tokens) in enumerate(labelled):
            found.append(
                Taken(
                    problem=problem.id,
                    contest=str(file),
                    attempt=number,
                    answer=_answer(candidate.answer),
                    right=right,
                    tokens=tokens,
                    # Formats without times leave 0, which no sample takes.
                    seconds=candidate.seconds or math.nan,
                    ended=candidate.finished,
                    logprob=candidate.logprob,
                    steps=candidate.steps,
                )
            )
    return found


def _answer(answer: Hashable | None) -> Hashable | None:
    """Tables of pandas spell "none" as they like."""
    return None if answer in ("None", "none", "nan", "null", "") else answer
