"""Attempts to replay: recorded ones, and populations made up to be unlike them.

A made-up population says how likely problems are to be solved, how wrong answers spread, how often an attempt
gives none, and whether right attempts are shorter or longer. Attempts at one problem share all of that, so
they are as correlated as recorded ones.
"""

import json
import math
import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from submission.answers import normalize

Problems = list[list["Attempt"]]

CHARS_A_SECOND = 100.0
"""For recordings without times: the ratio of times is that of lengths, their unit does not matter."""
RIGHT = "right"
"""The answer of every right attempt, so that spellings of one value are one vote."""

NO_ANSWER = {"", "None", "nan"}
"""How recordings spell that there is none."""


@dataclass(frozen=True)
class Attempt:
    """One attempt: what it answered (None: nothing), and what it took. `logprob` is a sum, nats."""

    answer: Hashable | None
    seconds: float
    tokens: int
    logprob: float = math.nan

    @property
    def right(self) -> bool:
        """Whether the answer is the right one."""
        return self.answer == RIGHT


def read_attempts(path: Path) -> Problems:
    """Attempts of each problem of a recording, in the file's order.

    A table (.parquet) has the columns `problem_id`, `answer`, `isCorrect`, `time`, `total_tokens`; lines of
    JSON have lists `pred`, `score` and `code` (or `response`), one entry an attempt.

    Raises:
        ValueError: another kind of file, or one without these columns.
    """
    if path.suffix == ".parquet":
        return _from_table(path)
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as lines:
            return [_from_row(json.loads(line), path) for line in lines if line.strip()]
    raise ValueError(f"recording {path}: expected .jsonl or .parquet")


def _from_table(path: Path) -> Problems:
    import polars as pl

    table = pl.read_parquet(path)
    missing = {"problem_id", "answer", "isCorrect", "time", "total_tokens"} - set(table.columns)
    if missing:
        raise ValueError(f"recording {path} lacks {sorted(missing)}; it has {table.columns}")
    problems: dict[str, list[Attempt]] = {}
    for row in table.iter_rows(named=True):
        answer = _label(row["answer"], row["isCorrect"])
        attempt = Attempt(answer, float(row["time"]), int(row["total_tokens"]))
        problems.setdefault(str(row["problem_id"]), []).append(attempt)
    return list(problems.values())


def _from_row(row: Mapping[str, Any], path: Path) -> list[Attempt]:
    texts = row.get("code", row.get("response"))
    if texts is None or not {"pred", "score"} <= row.keys():
        raise ValueError(f"recording {path}: a line lacks `pred`, `score` or `code`; it has {sorted(row)}")
    return [
        Attempt(_label(answer, right), len(text) / CHARS_A_SECOND, len(text) // 4 + 1)
        for answer, right, text in zip(row["pred"], row["score"], texts, strict=True)
    ]


def _label(answer: Any, right: object) -> Hashable | None:
    if right is True:
        return RIGHT
    text = str(answer).strip()
    return normalize(text) if text not in NO_ANSWER else None


@dataclass(frozen=True)
class Population:
    """How a made-up set of problems comes about.

    Args:
        right: parameters (a, b) of the beta distribution of a problem's probability of a right attempt.
        spread: how wrong answers spread: 0 puts all of them on one rival, infinity never repeats one.
        blank: most that a problem's wrong attempts can give no answer, as a share.
        length: seconds of a right attempt over those of a wrong one.
        scatter: standard deviation of the logarithm of an attempt's seconds within a problem.
        effort: how much longer the attempts at a problem get as it gets harder.
    """

    right: tuple[float, float]
    spread: float = 1.0
    blank: float = 0.1
    length: float = 1.0
    scatter: float = 0.3
    effort: float = 2.0


POPULATIONS: dict[str, Population] = {
    "easy, scattered errors": Population((8, 1.5), spread=4.0),
    "easy, one rival": Population((6, 2), spread=0.0),
    "hard, right are shorter": Population((1, 2), spread=2.0, length=0.6),
    "hard, right are longer": Population((1, 2), spread=2.0, length=1.6),
    "even, no relation": Population((1, 1), spread=1.0, effort=0.0),
    "right or wrong as one": Population((0.3, 0.3), spread=0.3),
    "borderline, one rival": Population((12, 8), spread=0.0, scatter=0.1),
    "many without an answer": Population((1.2, 1.2), spread=3.0, blank=0.9, length=0.6),
    "answers never repeat": Population((1, 1.5), spread=1e6, scatter=0.6),
    "equal lengths": Population((2, 1), spread=1.0, scatter=0.02, effort=0.0),
}


HELD_OUT: dict[str, tuple[Population, int, int]] = {
    "held out: few, hard": (Population((1, 3), spread=1.5, length=0.8, scatter=0.4), 10, 101),
    "held out: many, easy": (Population((5, 1), spread=3.0, length=0.9, effort=1.0), 80, 102),
    "held out: strong rivals": (Population((2, 2), spread=0.2, blank=0.2, length=1.2), 50, 103),
    "held out: blanks, longer": (Population((2, 2), spread=2.0, blank=0.7, length=1.3), 30, 104),
    "held out: all or nothing": (Population((0.2, 0.4), spread=20.0, blank=0.8, length=0.7), 30, 105),
    "held out: like the contest": (
        Population((1.5, 1), spread=3.0, blank=0.3, length=0.7, effort=1.5),
        50,
        106,
    ),
    "held out: wide lengths": (Population((1.5, 1.5), spread=1.0, scatter=0.9, effort=0.5), 40, 107),
    "held out: no effort": (Population((3, 2), spread=5.0, length=0.8, scatter=0.2, effort=0.0), 20, 108),
}
"""Population, number of problems and seed of sets that no setting of a policy was chosen on."""


def make_attempts(population: Population, problems: int, pool: int, seed: int) -> Problems:
    """`pool` attempts at each of `problems` problems; the same arguments give the same attempts."""
    random = Random(f"{population}/{seed}")
    return [list(_problem(population, pool, random)) for _ in range(problems)]


def _problem(population: Population, pool: int, random: Random) -> Iterator[Attempt]:
    chance = random.betavariate(*population.right)
    blank = random.uniform(0, population.blank)
    scale = 60.0 * math.exp(population.effort * (1 - chance) * random.random())
    wrong: list[int] = []
    for _ in range(pool):
        seconds = scale * math.exp(random.gauss(0, population.scatter))
        sure = random.gauss(-0.35, 0.05)
        answer: Hashable | None
        if random.random() < chance:
            answer, seconds, sure = RIGHT, seconds * population.length, sure + 0.04
        elif random.random() < blank:
            answer, seconds = None, seconds * 1.5
        else:
            # The Chinese restaurant process: an old wrong answer by its count, or a new one.
            new = random.random() * (len(wrong) + population.spread) >= len(wrong)
            wrong.append(max(wrong, default=0) + 1 if new or not wrong else random.choice(wrong))
            answer = wrong[-1]
        tokens = max(1, round(seconds * 75))
        yield Attempt(answer, seconds, tokens, min(sure, -0.01) * tokens)


def mean_seconds(problems: Sequence[Sequence[Attempt]]) -> float:
    """Mean seconds of an attempt."""
    return statistics.fmean(attempt.seconds for attempts in problems for attempt in attempts)
