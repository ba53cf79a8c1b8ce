"""A rehearsal's contest: a few problems through the gateway, with the bundle's own code, offline."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.package.offline import Mounted, run_offline
from submission.bundle import Bundle, run_command
from submission.journal import SampleLine, read_journal
from submission.settings import ContestSettings

GRACE = 300.0
"""Seconds beyond the contest's time limit after which the run is killed: it should have ended by itself."""
_SERVED = re.compile(r"served after ([0-9.]+) s, model ready after ([0-9.]+) s")


@dataclass(frozen=True, slots=True)
class Played:
    """How the contest went.

    Args:
        answers: of the problems, in their order.
        served: seconds from the command's start until the server listened, None where it did not say.
        ready: until the model was loaded.
        memory: bytes of all its processes together, at most.
        tokens: that the model wrote.
    """

    answers: tuple[int, ...]
    served: float | None
    ready: float | None
    memory: int
    tokens: int


def play(
    bundle: Bundle,
    python: Path,
    problems: Sequence[str],
    time_limit: float,
    scratch: Path,
    *,
    on_line: Callable[[str], None] = lambda _: None,
    extra: Mapping[str, str] | None = None,
    mounted: Mounted | None = None,
) -> Played:
    """Play the problems in `time_limit` seconds.

    Raises:
        ValueError: the contest failed, an answer is no integer in the contest's range, or the model wrote
            nothing, so that every answer is the default.
    """
    listed, out = scratch / "problems.csv", scratch / "submission.parquet"
    names = identifiers(len(problems))
    with listed.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "problem"), *zip(names, problems, strict=True)])
    command, variables = run_command(mounted.at if mounted else bundle.root, python)
    figures: list[tuple[float, float]] = []

    def read(line: str) -> None:
        if found := _SERVED.search(line):
            figures.append((float(found[1]), float(found[2])))
        on_line(line)

    done = run_offline(
        [*command, "--problems", listed, "--out", out, "--time-limit", f"{time_limit:g}"],
        home=scratch / "home",
        cwd=scratch,
        on_line=read,
        timeout=time_limit + GRACE,
        extra=_merged(variables, extra or {}),
        mounted=mounted,
    )
    if done.code != 0:
        raise ValueError(
            f"the contest of {len(problems)} problems failed (exit code {done.code}); its last lines:\n"
            f"{done.tail}"
        )
    answers = check_answers(out, ContestSettings.load(bundle.settings), names)
    samples = read_journal(out.with_suffix(".journal.jsonl")).of(SampleLine)
    tokens = sum(sample.tokens for sample in samples)
    if not tokens:
        errors = sorted({sample.error for sample in samples if sample.error})
        raise ValueError(
            "the model wrote nothing, every answer is the default "
            f"({'; '.join(errors) or 'no sample ended'}); the last lines:\n{done.tail}"
        )
    served, ready = figures[-1] if figures else (None, None)
    return Played(answers, served, ready, done.memory, tokens)


def _merged(variables: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Both, with the module paths of the second before those of the first."""
    path = [extra["PYTHONPATH"]] if "PYTHONPATH" in extra else []
    return {**variables, **extra, "PYTHONPATH": ":".join([*path, variables["PYTHONPATH"]])}


def identifiers(count: int) -> list[str]:
    """The problems' ids."""
    return [f"rehearsal-{number + 1}" for number in range(count)]


def check_answers(out: Path, settings: ContestSettings, names: Sequence[str]) -> tuple[int, ...]:
    """The answers in a contest's parquet file; ValueError unless there is one integer in range a problem."""
    import polars

    try:
        table = polars.read_parquet(out)
    except (OSError, polars.exceptions.PolarsError) as error:
        raise ValueError(f"the contest wrote no readable {out.name}: {error}") from None
    whole = table.columns == ["id", "answer"] and table.height == len(names)
    if not whole or not table["answer"].dtype.is_integer():
        raise ValueError(
            f"{out.name} must have {len(names)} rows with columns id and answer (an integer), got {table}"
        )
    if table["id"].to_list() != list(names) or table["answer"].null_count():
        raise ValueError(f"{out.name} must answer the problems {', '.join(names)}, got {table}")
    rules = settings.rules
    answers = tuple(map(int, table["answer"].to_list()))
    for answer in answers:
        if not rules.answer_min <= answer <= rules.answer_max:
            raise ValueError(f"answer {answer} is outside {rules.answer_min}..{rules.answer_max}")
    return answers
