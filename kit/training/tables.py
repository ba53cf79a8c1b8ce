"""Records into token tables: once, by rank 0, kept in the run's folder for all ranks and for every resume."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from kit.data.records import Record
from kit.training.chat import Chat, UnusableError
from kit.training.recipe import TableRecipe
from kit.training.rows import TokenRow, TokenTable, write_table

log = logging.getLogger(__name__)
VERSION = 1
"""Of how records become rows: a table of another version is made again."""


@dataclass
class Tokenized:
    """Rows of a set, and what was lost on the way.

    Args:
        kept: the record of each row.
        dropped: records without a row, by reason.
        cut: rows that lost tokens to the length limit.
    """

    rows: list[TokenRow] = field(default_factory=list)
    kept: list[Record] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    cut: int = 0


def tokenize(records: Iterable[Record], chat: Chat, recipe: TableRecipe, unreadable: int = 0) -> Tokenized:
    """Rows of all records that can be trained on. Memory: 5 bytes a token.

    Args:
        unreadable: rows of the set that gave no record, lost before.

    Raises:
        ValueError: more were lost than `faults.max_dropped_share`, or none is left; with the reasons.
    """
    result = Tokenized()
    batch = recipe.batch
    for record in records:
        try:
            row, cut = chat.row(record, batch.max_length, batch.overlong, source=len(result.rows))
        except UnusableError as reason:
            result.dropped[str(reason)] += 1
            continue
        result.rows.append(row)
        result.kept.append(record)
        result.cut += cut
    if unreadable:
        result.dropped["unreadable"] = unreadable
    _check_losses(result, recipe)
    return result


def _check_losses(result: Tokenized, recipe: TableRecipe) -> None:
    lost, kept = result.dropped.total(), len(result.rows)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in result.dropped.most_common())
    if not kept:
        raise ValueError(f"no row is left to train on ({reasons or 'the set is empty'})")
    share = lost / (lost + kept)
    if share > recipe.faults.max_dropped_share:
        raise ValueError(
            f"{lost} of {lost + kept} records cannot be trained on ({reasons}), more than "
            f"faults.max_dropped_share={recipe.faults.max_dropped_share}: clean the data with kit.data, "
            "raise batch.max_length, or raise the share"
        )


def tokenizer_digest(tokenizer: Any) -> str:
    """Hex digits that depend on the vocabulary and the chat template."""
    parts = [json.dumps(sorted(tokenizer.get_vocab().items())), str(tokenizer.chat_template)]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def data_digest(path: str) -> str:
    """Of a local file's content; a folder's names, sizes and times; a hub name stands for itself."""
    place = Path(path)
    digest = hashlib.sha256()
    if place.is_file():
        with place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    elif place.is_dir():
        for item in sorted(place.rglob("*")):
            status = item.stat()
            digest.update(f"{item.relative_to(place)} {status.st_size} {status.st_mtime_ns}\n".encode())
    else:
        digest.update(path.encode())
    return digest.hexdigest()[:16]


def table_key(parts: Mapping[str, JsonValue]) -> str:
    """Names a table by everything that it depends on."""
    return hashlib.sha256(json.dumps({"version": VERSION, **parts}, sort_keys=True).encode()).hexdigest()[:16]


def keep_table(folder: Path, rows: list[TokenRow], about: Mapping[str, JsonValue]) -> None:
    """Write a table if there are rows; nothing stands for an empty one."""
    if rows:
        write_table(folder, rows, dict(about))


def open_table(folder: Path) -> TokenTable | None:
    """The table in `folder`, or None where `keep_table` had no rows."""
    return TokenTable(folder) if folder.is_dir() else None
