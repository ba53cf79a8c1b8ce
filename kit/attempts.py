"""Recorded attempts at problems with known answers: what a calibration and the benchmarks of selection read.

Formats, told apart by their columns or keys:

- a table (`.parquet`, `.csv`) of attempts: `problem_id`, `answer`, `isCorrect` or `ground_truth`, and where
  there are any `time` (seconds), `total_tokens`, `logprob`, `entropy`, `steps` or `score`;
- `.jsonl` of attempts: `problem`, `answer`, `right` or `truth`, and where there are any `seconds`, `tokens`,
  `logprob`, `entropy`, `steps` or `score`, `finished`;
- the jsonl of Qwen2.5-Math's evaluation harness, one line a problem: `idx`, `pred`, `score` (whether each is
  right), and where a reward model was run `pred_score`;
- the journal of a contest, or of a rehearsal: its finished samples, judged against a csv of `id` and
  `answer`, with the step scores that its answers' lines keep;
- the journal of a trace run (`python -m kit.traces`).

Scores beyond 0 to 1 are a reward model's logits: all scores of that file then go through a sigmoid.
"""

import csv
import json
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from submission.answers import equal, normalize, parse_gold, to_int
from submission.selection.candidate import Candidate
from submission.selection.fitting import LabelledProblem

_NAMES = {
    "isCorrect": "right",
    "correct": "right",
    "ground_truth": "truth",
    "gold": "truth",
    "time": "seconds",
    "total_tokens": "tokens",
}
"""Other names of the keys, in the formats above."""


_ENDED = ("stop", "length")
"""How a journal's samples end that vote: others were cut off by the time, the policy or a fault."""


@dataclass(frozen=True)
class _Attempt:
    """One attempt as it was read; `place` is where, for messages."""

    problem: str
    candidate: Candidate
    right: bool
    place: str
    number: object = None
    """Which attempt of the problem, where the format says."""


def canonical(answer: object) -> Hashable | None:
    """An answer so that equal ones compare equal: an integer, else its spelling; None where there is none."""
    if answer is None or answer == "":
        return None
    text = str(answer)
    number = to_int(text)
    return number if number is not None else normalize(text) or None


def read_attempts(
    paths: Sequence[Path], *, answers: Path | None = None, limit: int | None = None
) -> list[LabelledProblem]:
    """Problems with their candidates, in order of first appearance.

    Args:
        paths: files of any of the module's formats. Attempts at one problem may be spread over files.
        answers: csv with `id` and `answer`, for attempts that do not tell whether they are right.
        limit: candidates of a problem, the first ones; None takes all.

    Raises:
        ValueError: a file is missing or of no known format, a line is damaged, or an attempt cannot be
            judged.
    """
    truths = _read_answers(answers) if answers is not None else {}
    grouped: dict[str, list[_Attempt]] = {}
    for path in paths:
        for attempt in _with_probabilities(_read(Path(path), truths)):
            grouped.setdefault(attempt.problem, []).append(attempt)
    if not grouped:
        raise ValueError(f"no attempt in {', '.join(map(str, paths))}")
    return [
        LabelledProblem(
            problem,
            tuple(one.candidate for one in attempts[:limit]),
            tuple(one.right for one in attempts[:limit]),
        )
        for problem, attempts in grouped.items()
    ]


def _read_answers(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"answers {path} cannot be read: {error}") from None
    if not rows or not {"id", "answer"} <= set(rows[0]):
        raise ValueError(f"answers {path}: expected rows with the columns id and answer")
    return {row["id"]: row["answer"] for row in rows}


def _read(path: Path, truths: Mapping[str, str]) -> list[_Attempt]:
    found: list[_Attempt] = []
    scores: dict[tuple[str, object], tuple[float, ...]] = {}
    for place, row in _rows(path):
        if isinstance(row.get("pred"), list):
            found += _from_harness(row, place)
        elif row.get("type") == "answer":
            scores.update(_contest_scores(row, place))
        elif row.get("type", "sample") == "sample" and row.get("finish", "stop") in _ENDED:
            found.append(_from_row(row, place, truths))
    return [
        replace(one, candidate=replace(one.candidate, steps=scores[one.problem, one.number]))
        if (one.problem, one.number) in scores
        else one
        for one in found
    ]


def _contest_scores(
    row: Mapping[str, Any], place: str
) -> Iterator[tuple[tuple[str, object], tuple[float, ...]]]:
    """((problem, attempt), steps) from a contest's answer: `scores` holds [attempt, step 1, step 2, …]."""
    for entry in row.get("scores") or ():
        if not isinstance(entry, list) or not entry:
            raise ValueError(f"{place}: scores {str(entry)[:80]!r} are no list of an attempt and its steps")
        yield (str(row.get("id")), entry[0]), _steps(entry[1:], place)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of each line."""
    if not path.is_file():
        raise ValueError(f"attempts {path} do not exist")
    if path.suffix in (".parquet", ".csv"):
        import polars as pl

        try:
            table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ValueError(f"attempts {path} cannot be read: {error}") from None
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(table.iter_rows(named=True)))
        return
    if path.suffix != ".jsonl":
        raise ValueError(f"attempts {path}: expected .jsonl, .parquet or .csv")
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                place = f"{path}, line {number}"
                try:
                    row = json.loads(raw)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{place} is no JSON: {error}") from None
                if not isinstance(row, dict):
                    raise ValueError(f"{place} is a {type(row).__name__}, not an object")
                yield place, row


def _from_harness(row: Mapping[str, Any], place: str) -> Iterator[_Attempt]:
    answers, right = row["pred"], row.get("score")
    scores = row.get("pred_score") or [[]] * len(answers)
    if not isinstance(right, list) or not len(answers) == len(right) == len(scores):
        raise ValueError(f"{place}: pred, score and pred_score must be lists of one length")
    if row.get("idx") is None:
        raise ValueError(f"{place} has no idx, the problem's number")
    for answer, is_right, steps in zip(answers, right, scores, strict=True):
        candidate = Candidate(canonical(answer), steps=_steps(steps, place))
        yield _Attempt(str(row["idx"]), candidate, bool(is_right), place)


def _from_row(raw: Mapping[str, Any], place: str, truths: Mapping[str, str]) -> _Attempt:
    row = {_NAMES.get(key, key): value for key, value in raw.items()}
    # In a table `problem` is the statement beside `problem_id`; a contest's journal has `id` alone.
    named = next((raw[key] for key in ("problem_id", "problem", "id") if raw.get(key) is not None), None)
    if named is None or "answer" not in row:
        raise ValueError(f"{place} has no problem_id (or problem) and answer; it has {sorted(raw)}")
    problem = str(named)
    tokens = int(_number(row, "tokens", place, len(row.get("ids") or ())))
    logprob = _number(row, "logprob", place, math.nan)
    if "ids" in row:
        # A trace journal keeps the mean over tokens.
        logprob *= tokens
    candidate = Candidate(
        canonical(row["answer"]),
        tokens=tokens,
        logprob=logprob,
        entropy=_number(row, "entropy", place, math.nan),
        steps=_steps(row.get("steps") or row.get("score"), place),
        finished=bool(row.get("finished", True)),
        seconds=_number(row, "seconds", place, 0.0),
    )
    return _Attempt(problem, candidate, _judged(row, problem, place, truths), place, row.get("attempt"))


def _judged(row: Mapping[str, Any], problem: str, place: str, truths: Mapping[str, str]) -> bool:
    if isinstance(row.get("right"), bool | int):
        return bool(row["right"])
    truth = row.get("truth")
    truth = truths.get(problem) if truth is None else truth
    if truth is None:
        raise ValueError(
            f"{place}: nothing tells whether it is right (right, isCorrect, truth or ground_truth), and "
            f"--answers has no problem {problem!r}"
        )
    answer = row["answer"]
    return answer is not None and equal(str(answer), parse_gold(truth))


def _number(row: Mapping[str, Any], key: str, place: str, absent: float) -> float:
    value = row.get(key)
    if value is None:
        return absent
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{place}: {key} is {value!r}, not a number") from None


def _steps(value: object, place: str) -> tuple[float, ...]:
    """Scores from a list, one number, or a list as JSON text (csv); empty where there is none."""
    if value is None or value == "":
        return ()
    try:
        if isinstance(value, str):
            value = json.loads(value)
        return tuple(float(one) for one in value) if isinstance(value, Iterable) else (float(value),)  # type: ignore[arg-type]  # what is no number is refused below
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{place}: scores {str(value)[:80]!r} are no numbers") from None


def _with_probabilities(attempts: list[_Attempt]) -> list[_Attempt]:
    """The same attempts; where one score of the file is beyond 0 to 1, all go through a sigmoid."""
    if all(0 <= score <= 1 for one in attempts for score in one.candidate.steps if math.isfinite(score)):
        return attempts
    return [
        replace(
            one,
            candidate=replace(one.candidate, steps=tuple(map(_sigmoid, one.candidate.steps))),
        )
        for one in attempts
    ]


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)
