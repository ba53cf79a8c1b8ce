"""Problem sets: read by short name, from an own file or from the hub, every gold answer checked at once.

A set's row has a problem (column `problem` or `question`), a gold answer (`answer`; a reference solution with
a box or `####` will do), and perhaps an id (`id`, `problem_id`, `unique_id` or `idx`; else the row's number).
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import Field

# The one reader of rows, whatever holds them; its records drop the ids that this module needs.
from kit.data.readers import LOCAL_SUFFIXES, placed_rows
from kit.data.shapes import RowError, text_of
from submission.answers import Gold, extract, parse_gold
from submission.problems import MAX_PROBLEM_CHARS, Problem
from submission.recipes import Recipe

CATALOGUE = Path(__file__).with_name("sets.toml")
PROBLEM_COLUMNS = ("problem", "question", "Problem", "Question")
ANSWER_COLUMNS = ("answer", "Answer", "ground_truth", "gold", "solution")
ID_COLUMNS = ("id", "problem_id", "unique_id", "idx", "ID")

Rule = Literal["auto", "integer", "hash", "latex"]


class SetSpec(Recipe):
    """Where a set is and how it is read."""

    path: str = ""
    """Hub name, with a configuration after a colon, or a local file; empty where only `file` can be had."""
    file: str = ""
    """A local copy's name below the data folder; it is preferred."""
    split: str = "train"
    """Of a hub name."""
    id: str = ""
    """Column; empty takes the first of the usual names, or else the row's number."""
    problem: str = ""
    answer: str = ""
    rule: Rule = "auto"
    """What a gold answer is. auto: whatever `submission.answers` reads."""
    low: int | None = None
    high: int | None = None
    """Range of integer answers."""


class Catalogue(Recipe):
    """Sets by short name."""

    sets: dict[str, SetSpec] = Field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One problem with its gold answer."""

    id: str
    text: str
    gold: Gold


@dataclass(frozen=True)
class ProblemSet:
    """A set as it is played: ids are unique, texts are not empty, every gold answer parses.

    Args:
        name: short name, safe as a folder's name.
        source: what was read.
        items: at least one.
        left_out: problems that were left out for their answers (`integers_only`).
    """

    name: str
    source: str
    items: tuple[Item, ...]
    left_out: int = 0

    @cached_property
    def digest(self) -> str:
        """Fingerprint of ids, texts and golds in order."""
        whole = json.dumps([[item.id, item.text, item.gold.text] for item in self.items])
        return hashlib.sha256(whole.encode("ascii")).hexdigest()[:16]

    def problems(self, low: int, high: int) -> list[Problem]:
        """For a contest whose answers are `low`..`high`: other golds are not told to it."""
        return [Problem(item.id, item.text, contest_gold(item.gold, low, high)) for item in self.items]


def contest_gold(gold: Gold, low: int, high: int) -> int | None:
    """The gold answer as an integer of the range, None where it is none."""
    return gold.integer if gold.integer is not None and low <= gold.integer <= high else None


def load_catalogue(own: Path | None = None) -> dict[str, SetSpec]:
    """The shipped sets, and over them those of an own TOML file of the same form.

    Raises:
        ValueError: the file cannot be read, or a key in it is wrong.
    """
    found: dict[str, SetSpec] = {}
    for path in [CATALOGUE, *([own] if own else [])]:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"catalogue {path} cannot be read: {error}") from None
        found |= Catalogue.parse({"sets": data}, str(path)).sets
    return found


def load_set(name: str, catalogue: Mapping[str, SetSpec], data: Path | None) -> ProblemSet:
    """Read one set.

    Args:
        name: a catalogue's, or the path of an own file.
        catalogue: from `load_catalogue`.
        data: folder of local copies; None has none.

    Raises:
        ValueError: no such set, a missing column, no rows, an id that comes twice, an empty problem, or a
            gold answer that does not parse or breaks the set's rule; the message names set and row.
    """
    spec = catalogue.get(name)
    if spec is None:
        if not name.endswith(LOCAL_SUFFIXES):
            raise ValueError(
                f"no problem set {name!r}; known: {', '.join(sorted(catalogue))}; or name a file "
                f"({', '.join(LOCAL_SUFFIXES)})"
            )
        spec = SetSpec(path=name)
    source = _located(name, spec, data)
    items: dict[str, Item] = {}
    for place, row in placed_rows(source, spec.split, streaming=False):
        where = f"set {name}, {place}"
        if isinstance(row, RowError):
            raise ValueError(f"{where}: {row}")
        item = _item(row, spec, str(len(items) + 1), where)
        if item.id in items:
            raise ValueError(f"{where}: id {item.id!r:.80} was used before; make ids unique")
        items[item.id] = item
    if not items:
        raise ValueError(f"set {name} ({source}) holds no problems")
    short = name if name in catalogue else Path(name).stem
    safe = "".join(char if char.isalnum() or char in "-_." else "_" for char in short).lstrip(".") or "set"
    return ProblemSet(safe, source, tuple(items.values()))


def _located(name: str, spec: SetSpec, data: Path | None) -> str:
    if data is not None and spec.file and (data / spec.file).is_file():
        return str(data / spec.file)
    if not spec.path:
        raise ValueError(
            f"set {name} is on no hub: put it at {data or 'DIR'}/{spec.file} and name that folder with --data"
        )
    return spec.path


def _item(row: Mapping[str, Any], spec: SetSpec, number: str, where: str) -> Item:
    try:
        text = text_of(row[_column(row, spec.problem, PROBLEM_COLUMNS, "problem", where)], "problem")
        answer = text_of(row[_column(row, spec.answer, ANSWER_COLUMNS, "answer", where)], "answer")
        key = next((key for key in ([spec.id] if spec.id in row else ID_COLUMNS) if key in row), None)
        identifier = number if key is None else text_of(row[key], key).strip()
    except RowError as error:
        raise ValueError(f"{where}: {error}") from None
    if not identifier:
        raise ValueError(f"{where}: the id is empty")
    if not text.strip():
        raise ValueError(f"{where}: the problem is empty")
    if len(text) > MAX_PROBLEM_CHARS:
        raise ValueError(f"{where}: the problem has {len(text):,} characters, over {MAX_PROBLEM_CHARS:,}")
    return Item(identifier, text, _gold(answer, spec, where))


def _column(row: Mapping[str, Any], named: str, usual: tuple[str, ...], what: str, where: str) -> str:
    found = next((name for name in ([named] if named else usual) if name in row), None)
    if found is None:
        wanted = repr(named) if named else " or ".join(map(repr, usual[:2]))
        raise ValueError(
            f"{where}: no column {wanted} with the {what}; found: {', '.join(sorted(map(str, row)))}"
        )
    return found


def _gold(answer: str, spec: SetSpec, where: str) -> Gold:
    if spec.rule == "hash" and "####" in answer:
        answer = answer.rpartition("####")[2].strip()
    elif spec.rule != "hash" and len(answer) > 100 and (found := extract(answer)):
        answer = found.text  # a whole reference solution stands for its answer
    try:
        gold = parse_gold(answer)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if spec.rule in ("integer", "hash"):
        low, high = spec.low, spec.high
        inside = gold.integer is not None and (low is None or low <= gold.integer)
        if not (inside and (high is None or (gold.integer is not None and gold.integer <= high))):
            bounds = "" if low is None else f" from {low} to {high}"
            raise ValueError(f"{where}: the gold answer {answer[:80]!r} is not an integer{bounds}")
    return gold


def drawn(problems: ProblemSet, count: int, seed: int) -> ProblemSet:
    """`count` of the problems, drawn with `seed` and in the set's order; all where there are no more."""
    if count >= len(problems.items):
        return problems
    chosen = sorted(Random(seed).sample(range(len(problems.items)), count))
    return ProblemSet(
        problems.name, problems.source, tuple(problems.items[index] for index in chosen), problems.left_out
    )


def integers_only(problems: ProblemSet, low: int, high: int, *, leave_out: bool) -> ProblemSet:
    """The problems that a contest of this range can ask.

    Args:
        low, high: the contest's range.
        leave_out: leave the others out; else refuse the set.

    Raises:
        ValueError: a gold answer is not an integer of the range and `leave_out` is not set, or all are.
    """
    kept = tuple(item for item in problems.items if contest_gold(item.gold, low, high) is not None)
    lost = len(problems.items) - len(kept)
    if lost and not leave_out:
        first = next(item for item in problems.items if contest_gold(item.gold, low, high) is None)
        raise ValueError(
            f"set {problems.name}: {lost} of {len(problems.items)} gold answers are not integers from {low} "
            f"to {high} (first: id {first.id!r}, {first.gold.text[:60]!r}); --keep-integers leaves them out, "
            "--samples plays all"
        )
    if not kept:
        raise ValueError(f"set {problems.name}: no gold answer is an integer from {low} to {high}")
    return ProblemSet(problems.name, problems.source, kept, problems.left_out + lost)
