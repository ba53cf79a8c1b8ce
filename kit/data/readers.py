"""Records out of local files (jsonl, json, csv, parquet), folders, and sets of the Hugging Face hub.

Rows come one by one, so a jsonl or parquet file of any size takes the memory of one batch; json and csv are
read whole. What a row's columns mean is told by `kit.data.shapes`, or by the caller's `columns`.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from kit.data.hub import loaded_rows
from kit.data.labelled import LabelledSolution
from kit.data.records import Record
from kit.data.shapes import Fields, Row, RowError, Shape, answer_in, recognise, text_of
from kit.data.step_shapes import Reading, recognise_steps

MAX_LINE_BYTES = 64 * 2**20
"""A longer line of jsonl is dropped unread."""
HOPELESS_ROWS = 1000
"""A set whose first so many rows are all unreadable is given up."""
LOCAL_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
MAPPABLE = (
    "problem",
    "answer",
    "completion",
    "system",
    "source",
    "licence",
    "level",
    "pass_rate",
    "correct",
    "teacher",
)

R = TypeVar("R")
M = TypeVar("M", bound=BaseModel)

HARD = Reading()

_HUB_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?")
_log = logging.getLogger(__name__)


class Unreadable(NamedTuple):
    """A row that gave no record."""

    place: str
    reason: str


def read(
    source: str,
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    limit: int = 0,
    name: str = "",
    licence: str = "",
    unreadable: MutableSequence[Unreadable] | None = None,
) -> Iterator[Record]:
    """Records of a set, in its order.

    Args:
        source: a local file or folder, or a hub name, with a configuration where the set has several:
            "openai/gsm8k:main". A path that exists wins.
        split: of a hub name or folder; a file has none.
        columns: field of a record = column of the set. With `problem` among them they are all that is read;
            without it they complete what is known of the set.
        limit: the first so many records; 0 gives all.
        name, licence: written into the records that do not bring their own; the name defaults to `source`.
        unreadable: gets the rows that gave no record. They are skipped, and counted in a warning.

    Raises:
        ValueError: no such file or set, an unknown column or field, or not one row gave a record.
    """
    columns = dict(columns or {})
    unknown = sorted(columns.keys() - set(MAPPABLE))
    if unknown:
        raise ValueError(
            f"columns: a record has no field {unknown[0]!r} to map; it has {', '.join(MAPPABLE)}"
        )
    if limit < 0:
        raise ValueError(f"limit={limit} must not be negative; 0 reads all")
    rows = placed_rows(source, split, streaming=limit > 0)
    skipped = unreadable if unreadable is not None else []
    defaults = {"source": name or source, "licence": licence}
    return _read(source, rows, lambda row: _records(row, columns, defaults), limit, skipped)


def read_labelled(
    source: str,
    *,
    split: str = "train",
    limit: int = 0,
    name: str = "",
    reading: Reading = HARD,
    unreadable: MutableSequence[Unreadable] | None = None,
) -> Iterator[LabelledSolution]:
    """Solutions with step labels, in the set's order; see `kit.data.step_shapes` for the formats.

    Args:
        source, split, limit, name, unreadable: as of `read`.
        reading: how labels are read where a set leaves a choice.

    Raises:
        ValueError: no such file or set, or not one row gave a record.
    """
    if limit < 0:
        raise ValueError(f"limit={limit} must not be negative; 0 reads all")

    @lru_cache(maxsize=64)
    def converter(columns: frozenset[str]) -> Callable[[Row], Iterator[Fields]]:
        return recognise_steps(columns, reading)

    def records_of(row: Row | RowError) -> Iterator[LabelledSolution | RowError]:
        if isinstance(row, RowError):
            yield row
            return
        try:
            for fields in converter(frozenset(row))(row):
                yield _validated(LabelledSolution, {"source": name or source, **fields})
        except RowError as error:
            yield error

    skipped = unreadable if unreadable is not None else []
    return _read(source, placed_rows(source, split, streaming=limit > 0), records_of, limit, skipped)


def _read(
    source: str,
    rows: Iterable[tuple[str, Row | RowError]],
    records_of: Callable[[Row | RowError], Iterator[R | RowError]],
    limit: int,
    skipped: MutableSequence[Unreadable],
) -> Iterator[R]:
    count, before = 0, len(skipped)
    for place, row in rows:
        for record in records_of(row):
            if isinstance(record, RowError):
                skipped.append(Unreadable(place, str(record)))
                if not count and len(skipped) - before >= HOPELESS_ROWS:
                    raise ValueError(
                        f"{source}: none of the first {HOPELESS_ROWS} rows can be read; {place}: {record}"
                    )
                continue
            yield record
            count += 1
            if count == limit:
                return
    bad = skipped[before:]
    if not count:
        why = f"; {bad[0].place}: {bad[0].reason}" if bad else ""
        raise ValueError(f"{source} holds no readable row ({len(bad)} unreadable){why}")
    if bad:
        _log.warning(
            "%s: %d rows skipped, %d records read; %s: %s",
            source,
            len(bad),
            count,
            bad[0].place,
            bad[0].reason,
        )


def _records(
    row: Row | RowError, columns: Mapping[str, str], defaults: Mapping[str, str]
) -> Iterator[Record | RowError]:
    """Never raises: what cannot be read comes out as a RowError, so that the next row is read."""
    if isinstance(row, RowError):
        yield row
        return
    try:
        mapped = _mapped(row, columns)
        if "problem" in columns:
            yield _record(mapped, defaults)
            return
        for fields in _recognise(frozenset(row)).convert(row):
            if isinstance(fields, RowError):
                yield fields
            else:
                yield _record({**fields, **mapped}, defaults)
    except RowError as error:
        yield error


@lru_cache(maxsize=64)
def _recognise(columns: frozenset[str]) -> Shape:
    return recognise(columns)


def _mapped(row: Row, columns: Mapping[str, str]) -> Fields:
    fields: Fields = {}
    for field, column in columns.items():
        if column not in row:
            raise RowError(f"there is no column {column!r}; the set has {', '.join(sorted(map(str, row)))}")
        value = row[column]
        if field in ("pass_rate", "correct"):
            fields[field] = value
            continue
        text = text_of(value, column)
        # A whole reference solution may stand for the answer.
        fields[field] = (answer_in(text) or text) if field == "answer" and len(text) > 100 else text
    return fields


def _record(fields: Fields, defaults: Mapping[str, str]) -> Record:
    """A valid record of these fields; `subset`, where a shape gives one, is added to the source's name."""
    subset = fields.pop("subset", "")
    whole = {key: value for key, value in defaults.items() if value}
    whole |= {key: value for key, value in fields.items() if value not in ("", None)}
    if subset and "source" not in fields:
        whole["source"] = f"{defaults['source']}/{subset}"
    if not str(whole.get("problem", "")).strip():
        raise RowError("the problem is empty")
    return _validated(Record, whole)


def _validated(kind: type[M], fields: Fields) -> M:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RowError(
            f"{key}: {first['msg']}" if key else first["msg"].removeprefix("Value error, ")
        ) from None


def placed_rows(source: str, split: str, *, streaming: bool) -> Iterator[tuple[str, Row | RowError]]:
    """Each row of a file, folder or hub name as it stands there, with its place for messages.

    Raises:
        ValueError: there is no such source, or it cannot be read.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix not in LOCAL_SUFFIXES:
            raise ValueError(f"{source}: the suffix {path.suffix!r} is none of {', '.join(LOCAL_SUFFIXES)}")
        readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
        return readers[path.suffix](path)
    if path.is_dir():
        return loaded_rows(source, None, split, streaming=False)
    name = _HUB_NAME.fullmatch(source)
    if path.suffix in LOCAL_SUFFIXES or source.startswith((".", "/", "~")) or name is None:
        raise ValueError(f"there is no file or folder {source}")
    return loaded_rows(name[1], name[2], split, streaming=streaming)


def _jsonl(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                place = f"line {number}"
                if len(line) > MAX_LINE_BYTES:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE_BYTES)
                    yield place, RowError(f"longer than {MAX_LINE_BYTES} bytes")
                elif line.strip():
                    yield place, _parsed(line)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _parsed(line: bytes) -> Row | RowError:
    try:
        return _as_row(json.loads(line.decode("utf-8-sig")))
    except UnicodeDecodeError:
        return RowError("not UTF-8 text")
    except RecursionError:
        return RowError("nested too deeply")
    except ValueError as error:  # not JSON, or a number of more digits than Python reads
        return RowError(f"not JSON: {str(error)[:100]}")


def _as_row(value: Any) -> Row | RowError:
    return (
        value if isinstance(value, dict) else RowError(f"a {type(value).__name__}, not an object of columns")
    )


def _json(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    """A list of rows, or {"data": rows}; many sets also give this name to a file of lines."""
    try:
        data: Any = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _jsonl(path)
        raise ValueError(f"{path} is not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} cannot be parsed: {error}") from None
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        data = data["data"]
    if isinstance(data, dict):
        data = [data]
    if not isinstance(data, list):
        raise ValueError(
            f"{path} holds a {type(data).__name__}; wanted is a list of rows, or {{'data': [...]}}"
        )
    return ((f"row {number}", _as_row(value)) for number, value in enumerate(data, 1))


def _csv(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    import polars

    try:
        frame = polars.read_csv(path, infer_schema=False)
    except (OSError, polars.exceptions.PolarsError) as error:
        raise ValueError(f"{path} is no CSV that can be read: {str(error).splitlines()[0]}") from None
    return ((f"row {number}", row) for number, row in enumerate(frame.iter_rows(named=True), 1))


def _parquet(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        place = f" after row {number}" if number else ""
        raise ValueError(f"{path} is no parquet file that can be read{place}: {str(error)[:200]}") from None
