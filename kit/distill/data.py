"""The rows of a distillation run: training, validation, and the teacher's own prompts where they differ."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

from kit.data.readers import Unreadable, read
from kit.data.records import Record
from kit.distill.recipe import DistillRecipe
from kit.traces.topk import TopKReader, vocabulary_digest
from kit.training.chat import Chat, UnusableError
from kit.training.rows import TokenRow, TokenTable
from kit.training.tables import (
    Tokenized,
    data_digest,
    keep_table,
    open_table,
    table_key,
    tokenize,
    tokenizer_digest,
)
from submission.files import write_text

log = logging.getLogger(__name__)
TABLES = "tokens"


@dataclass(frozen=True)
class Data:
    """What the ranks open. `TokenRow.source` numbers training and validation rows through.

    Args:
        key: digest of everything that the rows depend on.
        prompts: the teacher's prompts by source; None where they are the student's.
        places: top-k file and row by source; empty without a cached teacher.
        counts: records dropped and rows cut, by reason.
    """

    key: str
    train: TokenTable
    validation: Sequence[TokenRow]
    prompts: TokenTable | None
    places: Sequence[tuple[str, int]]
    counts: dict[str, int]


def key_of(recipe: DistillRecipe, student: Chat, teacher: Chat | None) -> str:
    """Digest of all that the rows depend on."""
    parts: dict[str, JsonValue] = {
        "data": recipe.data.model_dump(mode="json"),
        "content": data_digest(recipe.data.path),
        "validation": data_digest(recipe.data.validation) if recipe.data.validation else "",
        "max_length": recipe.batch.max_length,
        "overlong": recipe.batch.overlong,
        "student": tokenizer_digest(student.tokenizer),
        "teacher": tokenizer_digest(teacher.tokenizer) if teacher else "",
        "cached": recipe.loss.alpha > 0 and recipe.teacher.source == "cached",
        "evaluation_rows": recipe.evaluation.rows,
    }
    return table_key(parts)


def make_tables(recipe: DistillRecipe, student: Chat, teacher: Chat | None) -> str:
    """Write the run's tables, unless they stand; returns their key. Called on rank 0.

    Raises:
        ValueError: the data cannot be read, too much of it is lost, or the cached log-probabilities are of
            other tokens.
    """
    key = key_of(recipe, student, teacher)
    folder = recipe.out / TABLES / key
    done = folder / "summary.json"
    if done.is_file():
        return key
    train_records, validation_records, unreadable = _split(recipe)
    train = tokenize(train_records, student, recipe, unreadable)
    validation = Tokenized()
    if validation_records:
        validation = tokenize(validation_records, student, recipe)
    shift = len(train.rows)
    held_out = [TokenRow(row.ids, row.mask, row.source + shift) for row in validation.rows]
    places = _places(recipe, train, validation, student)
    about: dict[str, JsonValue] = {"key": key}
    keep_table(folder / "train", train.rows, about)
    keep_table(folder / "validation", held_out, about)
    if teacher is not None:
        try:
            prompts = [teacher.prompt(record) for record in [*train.kept, *validation.kept]]
        except UnusableError as error:
            raise ValueError(f"teacher.path {recipe.teacher.path} cannot be asked: {error}") from None
        ours = [row.ids[: int(np.argmax(row.mask))].tolist() for row in [*train.rows, *held_out]]
        if prompts != ours:
            rows = [TokenRow(np.array(ids, np.int32), np.zeros(len(ids), np.uint8)) for ids in prompts]
            keep_table(folder / "prompts", rows, about)
    dropped = train.dropped + validation.dropped
    counts = {f"records dropped ({reason})": count for reason, count in dropped.items()}
    counts["rows cut by the length limit"] = train.cut + validation.cut
    write_text(done, json.dumps({"counts": counts, "places": places}))
    return key


def open_tables(recipe: DistillRecipe, key: str) -> Data:
    """What `make_tables` wrote, mapped into memory."""
    folder = recipe.out / TABLES / key
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    train, validation = open_table(folder / "train"), open_table(folder / "validation")
    assert train is not None, "a set without rows is refused when the table is made"
    held_out = [validation[index] for index in range(len(validation))] if validation else []
    places = [(str(name), int(row)) for name, row in summary["places"]]
    return Data(key, train, held_out, open_table(folder / "prompts"), places, summary["counts"])


def _split(recipe: DistillRecipe) -> tuple[list[Record], list[Record], int]:
    """Training and validation records, and how many rows gave none; a problem is in one of them only."""
    section = recipe.data
    lost: list[Unreadable] = []
    records = list(
        read(section.path, split=section.split, columns=section.columns, limit=section.limit, unreadable=lost)
    )
    held_out: list[Record] = []
    if section.validation:
        held_out = list(read(section.validation, columns=section.columns, limit=recipe.evaluation.rows))
        known = {record.problem_id for record in records}
        shared = sum(record.problem_id in known for record in held_out)
        if shared:
            log.warning("%d of %d validation problems are in the training data too", shared, len(held_out))
    elif section.validation_share:
        limit = int(section.validation_share * 16**12)
        held_out = [record for record in records if int(record.problem_id, 16) < limit]
        records = [record for record in records if int(record.problem_id, 16) >= limit]
        if len(held_out) > recipe.evaluation.rows:
            unused = len(held_out) - recipe.evaluation.rows
            log.warning("%d held-out records are not evaluated on (evaluation.rows); lower the share", unused)
        held_out = held_out[: recipe.evaluation.rows]
    return records, held_out, len(lost)


def _places(
    recipe: DistillRecipe, train: Tokenized, validation: Tokenized, student: Chat
) -> list[tuple[str, int]]:
    """Where each row's cached log-probabilities lie, checked against the rows.

    Raises:
        ValueError: a row has none, or they are of another tokenizer, temperature or length.
    """
    if recipe.loss.alpha == 0 or recipe.teacher.source == "online":
        return []
    if recipe.loss.temperature > 1:
        # Measured on SmolLM2-135M at k = 64: the tail holds 1 % of the mass at T = 1, 47 % at T = 2.
        log.warning(
            "loss.temperature=%g with cached top-k: much of the teacher's mass is in the tail, which counts "
            "as one outcome. Near 1 the cache is as good as the teacher; above it, take an online teacher",
            recipe.loss.temperature,
        )
    folder = Path(recipe.data.path).parent
    ours = vocabulary_digest(student.tokenizer.get_vocab())
    readers: dict[str, TopKReader] = {}
    places = []
    pairs = [*zip(train.rows, train.kept, strict=True), *zip(validation.rows, validation.kept, strict=True)]
    for row, record in pairs:
        if record.topk is None:
            raise ValueError(
                f"teacher.source = 'cached', but the trace of problem {record.problem[:60]!r} has no cached "
                "log-probabilities: make them with `python -m kit.traces ... --top-k 64`"
            )
        name = record.topk.file
        if name not in readers:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"top-k file {name!r} must lie beside the traces, under {folder}")
            readers[name] = TopKReader(folder / name)
            readers[name].verify()
            if readers[name].header.tokenizer != ours:
                raise ValueError(
                    f"top-k file {name} was made with the tokenizer of {readers[name].header.teacher}, "
                    "which is not the student's: take an online teacher (teacher.source = 'online'), or a "
                    "student of its family"
                )
            readers[name].row(0, recipe.loss.temperature)  # says which temperatures there are
        sampled_end = record.completion_ids[-1] if record.completion_ids else student.end_id
        if sampled_end in student.tokenizer.all_special_ids and sampled_end != student.end_id:
            raise ValueError(
                f"top-k file {name}: the teacher ends with token {sampled_end}, the student's template with "
                f"{student.end_id}: take an online teacher (teacher.source = 'online'): it tells them apart"
            )
        trained = int(row.mask.sum())
        length = readers[name].length(record.topk.row)
        if length < trained or (length > trained and len(row) < recipe.batch.max_length):
            raise ValueError(
                f"top-k file {name}, row {record.topk.row}: {length} tokens for a completion of {trained} "
                f"(problem {record.problem[:60]!r}): the traces were changed after it was made"
            )
        places.append((name, record.topk.row))
    return places
