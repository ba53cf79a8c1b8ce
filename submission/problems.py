"""Reading a contest's problems from a csv, parquet or jsonl file, checked before any model is loaded."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submission.settings import ContestRules

if TYPE_CHECKING:
    import polars

MAX_PROBLEM_CHARS = 50_000
"""A longer text is no contest problem: the longest AIME and IMO problems have under 3,000 characters."""
TEXT_COLUMNS = ("problem", "question")
_PLAIN_INTEGER = re.compile(r"([+-]?[0-9]{1,20})(?:\.0*)?")


@dataclass(frozen=True)
class Problem:
    """One problem; `answer` is the gold answer where the file has them."""

    id: str
    text: str
    answer: int | None


def load_problems(path: Path, rules: ContestRules) -> list[Problem]:
    """Read problems from columns `id`, `problem` (or `question`) and, if there is one, `answer`.

    Args:
        path: a `.csv` (UTF-8), `.parquet` or `.jsonl` file. Ids are kept as text; blank lines are skipped.
        rules: the range that gold answers must lie in. `70.0` counts as 70.

    Raises:
        ValueError: the file cannot be read, lacks a column or has no rows; an id is missing or used twice; a
            problem is empty or too long; a gold answer is no integer in the range. The message names the file
            and the row, counted from 1 without the header.
    """
    path = Path(path)
    frame = _read(path)
    text_column = _check_columns(frame, path)
    has_gold = "answer" in frame.columns
    problems: list[Problem] = []
    rows_by_id: dict[str, int] = {}
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        if all(value is None for value in row.values()):
            continue
        place = f"{path}, row {number}"
        identifier = _identifier(row["id"], place)
        if identifier in rows_by_id:
            first = rows_by_id[identifier]
            raise ValueError(
                f"{place}: id {identifier!r:.80} was used in row {first} already; make ids unique"
            )
        rows_by_id[identifier] = number
        text = _text(row[text_column], f"{place} (id {identifier!r:.80})")
        gold = _gold(row["answer"], rules, f"{place} (id {identifier!r:.80})") if has_gold else None
        problems.append(Problem(identifier, text, gold))
    if not problems:
        raise ValueError(f"{path} holds no problems: it has a header and no rows")
    return problems


def _read(path: Path) -> "polars.DataFrame":
    """The file as a frame. Csv fields all come as text, so that an id like 007 stays what it is."""
    import polars

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"problems file {path} cannot be read: {error.strerror or error}") from None
    kind = path.suffix.lower()
    if kind in (".csv", ".jsonl"):
        _check_utf8(raw, path)
    try:
        if kind == ".csv":
            return polars.read_csv(raw, infer_schema=False)
        if kind == ".jsonl":
            return polars.read_ndjson(raw, infer_schema_length=None)
        if kind == ".parquet":
            return polars.read_parquet(raw)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError) as error:
        reason = (_bad_json_line(raw) if kind == ".jsonl" else "") or str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is not a valid {kind[1:]} file: {reason[:300] or 'nothing in it'}"
        ) from None
    raise ValueError(f"problems file {path} must end in .csv, .jsonl or .parquet")


def _check_utf8(raw: bytes, path: Path) -> None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not UTF-8 text: byte 0x{raw[error.start]:02x} in line {line}; save it as UTF-8"
        ) from None


def _bad_json_line(raw: bytes) -> str:
    """Which line of a jsonl file is at fault, for the message; empty if json itself finds none."""
    for number, line in enumerate(raw.splitlines(), start=1):
        try:
            value = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            return f"line {number}: {error}"
        if not isinstance(value, dict):
            return f"line {number} is not an object"
    return ""


def _check_columns(frame: "polars.DataFrame", path: Path) -> str:
    """Name of the column with the problems' texts."""
    found = ", ".join(repr(name) for name in frame.columns[:20]) or "none"
    text_column = next((name for name in TEXT_COLUMNS if name in frame.columns), None)
    if text_column is None or "id" not in frame.columns:
        raise ValueError(f"{path} must have the columns 'id' and 'problem' (or 'question'); found: {found}")
    return text_column


def _identifier(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"{place}: {value!r:.80} is not an id; give each problem a text or a whole number")
    return str(value)


def _text(value: Any, place: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: the problem must be text, not {type(value).__name__}")
    if not value or not value.strip():
        raise ValueError(f"{place}: the problem is empty")
    if len(value) > MAX_PROBLEM_CHARS:
        raise ValueError(
            f"{place}: the problem has {len(value):,} characters; shorten it to {MAX_PROBLEM_CHARS:,}"
        )
    return str(value)


def _gold(value: Any, rules: ContestRules, place: str) -> int:
    """A gold answer in the contest's range. Plain numbers only: gold that needs reading is a wrong file."""
    spelled = _PLAIN_INTEGER.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    answer = int(spelled[1]) if spelled else None
    if answer is None or not rules.answer_min <= answer <= rules.answer_max:
        raise ValueError(
            f"{place}: the gold answer {value!r:.80} is not an integer from {rules.answer_min} to "
            f"{rules.answer_max}; correct it, or leave the column 'answer' out"
        )
    return answer
