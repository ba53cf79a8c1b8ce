"""The rows of a run: solutions with labelled steps, in the very layout that the contest's scorer reads.

Each labelled step of a record ends up in one row, once, or the whole record is dropped and counted with its
reason.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import JsonValue

from kit.data.labelled import LabelledSolution
from kit.data.readers import Unreadable, read_labelled
from kit.data.step_shapes import Reading
from kit.losses.step_labels import ClassWeights, balanced
from kit.prm.recipe import HeadSection, PrmRecipe
from kit.prm.rows import StepRow, StepTable, step_row, write_steps_table
from kit.training.tables import data_digest, table_key, tokenizer_digest
from submission.engines.base import EngineError
from submission.files import write_text
from submission.prm.encoding import StepEncoder
from submission.prm.heads import EXTRA, PARAGRAPH, PrmConfig
from submission.prm.layout import lay_out

log = logging.getLogger(__name__)
TABLES = "tokens"
SPARE = (EXTRA, "<|quad_end|>", "<|reserved_special_token_0|>", "<unused0>")
"""Special tokens that no text is written with: Qwen's PRMs, Qwen2.5 (its id is vLLM's default for a
step's end), Llama 3, Gemma."""

_SPECIAL = re.compile(r"<[^\s<>]+>")
"""What looks like a special token: spelled out in plain tokens, it is surely not what was meant."""


@dataclass(frozen=True)
class Data:
    """What the ranks open.

    Args:
        key: digest of everything that the rows depend on.
        weights: of the two classes, under `loss.balance`.
        counts: records dropped, by reason, and steps.
    """

    key: str
    train: StepTable
    validation: Sequence[StepRow]
    weights: ClassWeights
    counts: dict[str, int]


@dataclass
class Rows:
    """Rows of a set, and what was lost on the way.

    Args:
        dropped: records without a row, by reason.
        example: by reason, the first record that was dropped for it.
    """

    rows: list[StepRow] = field(default_factory=list)
    records: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)


class UnusableError(Exception):
    """A record that cannot be trained on; the message is the reason, the same for all of its kind."""


def form_of(tokenizer: Any, head: HeadSection) -> PrmConfig:
    """What `prm.json` will say but for scale and bias.

    Raises:
        ValueError: the separator cannot be said in tokens, or is no way to end a step.
    """
    separator = head.separator
    if separator == "auto":
        spare = [] if head.kind == "logprob" else [t for t in SPARE if t in tokenizer.get_vocab()]
        separator = spare[0] if spare else PARAGRAPH
    if separator:
        ids = tokenizer(separator, add_special_tokens=False)["input_ids"]
        unknown = tokenizer.unk_token_id
        spelled = _SPECIAL.fullmatch(separator) and separator not in tokenizer.get_vocab()
        if spelled or not ids or (unknown is not None and unknown in ids):
            raise ValueError(
                f"head.separator {separator!r} is not in the tokenizer's vocabulary, which is never resized: "
                'name one of its special tokens, or plain text such as "\\n\\n"'
            )
    span = head.span if head.kind == "logprob" else "step"
    return PrmConfig(
        head=head.kind,
        separator=separator,
        span=span,
        system_prompt=head.system_prompt,
        instruction=head.instruction,
    )


def masked(record: LabelledSolution, how: str) -> list[float | None]:
    """Labels with those after the first wrong step as `data.after_error` says."""
    labels, first = record.labels, record.first_error
    if first is None:
        wrong = (index for index, label in enumerate(labels) if label is not None and label < 0.5)
        first = next(wrong, -1)
    if first < 0 or how == "keep":
        return list(labels)
    rest: list[float | None] = [None if how == "mask" else 0.0] * (len(labels) - first - 1)
    return [*labels[: first + 1], *rest]


def encode(records: Iterable[LabelledSolution], encoder: StepEncoder, recipe: PrmRecipe) -> Rows:
    """Rows of all records that can be trained on. Memory: 5 bytes a token and 16 a step.

    A row's `source` is its record's number among those kept: windows of one solution share it.
    """
    found = Rows()
    for number, record in enumerate(records, 1):
        try:
            rows = rows_of(record, encoder, recipe, found.records)
        except UnusableError as reason:
            found.dropped[str(reason)] += 1
            name = record.id or f"record {number}"
            found.example.setdefault(str(reason), f"{name} of {record.source}: {record.problem[:60]!r}")
            continue
        found.rows += rows
        found.records += 1
    return found


def rows_of(record: LabelledSolution, encoder: StepEncoder, recipe: PrmRecipe, source: int) -> list[StepRow]:
    """The rows of one record; each of its labelled steps is in one of them.

    Raises:
        UnusableError: a step would lose its label, or none has one.
    """
    labels = masked(record, recipe.data.after_error)
    if all(label is None for label in labels):
        raise UnusableError("no step has a label")
    try:
        f"{record.problem}{''.join(record.steps)}".encode()
    except UnicodeEncodeError:
        raise UnusableError("a lone surrogate, which is no Unicode text") from None
    # What follows the last label is not needed to predict it.
    count = max(index for index, label in enumerate(labels) if label is not None) + 1
    try:
        prompt = encoder.prompt(record.problem)
    except EngineError as error:
        raise UnusableError(f"the chat template fails: {str(error)[:80]}") from None
    steps = encoder.steps(record.steps[:count])
    if not all(steps):
        raise UnusableError("a step of nothing but separators")
    blocks = [len(step) + len(encoder.separator) for step in steps]
    limit = recipe.batch.max_length
    if len(prompt) + sum(blocks) > limit:
        if recipe.batch.overlong == "drop":
            raise UnusableError("longer than batch.max_length")
        if len(prompt) + max(blocks) > limit:
            raise UnusableError("a prompt with one step longer than batch.max_length")
    layouts = lay_out(prompt, steps, encoder.separator, limit)
    places = [layout.first + index for layout in layouts for index in range(len(layout.ends))]
    assert places == list(range(count)), "every step is scored once"
    head, span = recipe.head.kind, recipe.head.span
    made = [
        step_row(layout, labels[layout.first : layout.first + len(layout.ends)], source, head=head, span=span)
        for layout in layouts
    ]
    rows = [row for row in made if row is not None]
    kept, wanted = sum(row.labelled for row in rows), sum(label is not None for label in labels)
    if kept != wanted:
        raise UnusableError("a labelled step has no token")
    return rows


def key_of(recipe: PrmRecipe, tokenizer: Any, form: PrmConfig) -> str:
    """Digest of all that the rows depend on."""
    section = recipe.data
    parts: dict[str, JsonValue] = {
        "data": section.model_dump(mode="json"),
        "content": [data_digest(path) for path in (section.path, *section.more)],
        "validation": data_digest(section.validation) if section.validation else "",
        "max_length": recipe.batch.max_length,
        "overlong": recipe.batch.overlong,
        "tokenizer": tokenizer_digest(tokenizer),
        "form": form.model_dump(mode="json"),
        "evaluation_rows": recipe.evaluation.rows,
        "steps": 1,
    }
    return table_key(parts)


def make_tables(recipe: PrmRecipe, encoder: StepEncoder, key: str) -> str:
    """Write the run's tables, unless they stand; returns their key. Called on rank 0.

    Raises:
        ValueError: the data cannot be read, or more of it is lost than `faults.max_dropped_share`.
    """
    folder = recipe.out / TABLES / key
    done = folder / "summary.json"
    if done.is_file():
        return key
    records, held_out, unreadable = split(recipe)
    train = encode(records, encoder, recipe)
    check_losses(train, unreadable, recipe.faults.max_dropped_share)
    validation = encode(held_out, encoder, recipe) if held_out else Rows()
    if held_out:
        check_losses(validation, [], recipe.faults.max_dropped_share)
    about: dict[str, object] = {"key": key}
    write_steps_table(folder / "train", train.rows, about)
    if validation.rows:
        write_steps_table(folder / "validation", validation.rows, about)
    counts = {f"records dropped ({why})": n for why, n in (train.dropped + validation.dropped).items()}
    counts |= {"solutions": train.records, "labelled steps": sum(row.labelled for row in train.rows)}
    write_text(done, json.dumps({"counts": counts, "weights": balanced(_labels(train.rows))}))
    return key


def open_tables(recipe: PrmRecipe, key: str) -> Data:
    """What `make_tables` wrote, mapped into memory."""
    folder = recipe.out / TABLES / key
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    validation: list[StepRow] = []
    if (folder / "validation").is_dir():
        table = StepTable(folder / "validation")
        validation = [table[index] for index in range(len(table))]
    weights = ClassWeights(*summary["weights"]) if recipe.loss.balance == "classes" else ClassWeights()
    return Data(key, StepTable(folder / "train"), validation, weights, summary["counts"])


def check_losses(found: Rows, unreadable: Sequence[Unreadable], share: float) -> None:
    """Raise where more records were lost than `share`, or none is left.

    Raises:
        ValueError: with each reason, how often, and the first record that was lost for it.
    """
    dropped, example = Counter(found.dropped), dict(found.example)
    if unreadable:
        dropped["unreadable"] = len(unreadable)
        example["unreadable"] = f"{unreadable[0].place}: {unreadable[0].reason}"
    lost = dropped.total()
    reasons = "; ".join(f"{why}: {n}, first {example[why]}" for why, n in dropped.most_common())
    if not found.rows:
        raise ValueError(f"no row is left to train on ({reasons or 'the set is empty'})")
    if lost > share * (lost + found.records):
        raise ValueError(
            f"{lost} of {lost + found.records} solutions cannot be trained on ({reasons}), more than "
            f"faults.max_dropped_share={share}: raise batch.max_length, set batch.overlong='truncate', clean "
            "the data, or raise the share"
        )
    if lost:
        log.warning("%d of %d solutions are left out (%s)", lost, lost + found.records, reasons)


def split(recipe: PrmRecipe) -> tuple[list[LabelledSolution], list[LabelledSolution], list[Unreadable]]:
    """Training and held-out records, and the rows that gave none; a problem is in one of the two only.

    Raises:
        ValueError: a set cannot be read.
    """
    section = recipe.data
    neutral = {"right": 1.0, "wrong": 0.0, "mask": None}[section.neutral]
    how = Reading(neutral, section.labels)
    lost: list[Unreadable] = []
    records = [
        record
        for path in (section.path, *section.more)
        for record in read_labelled(
            path, split=section.split, limit=section.limit, reading=how, unreadable=lost
        )
    ]
    most = recipe.evaluation.rows
    if section.validation:
        held_out = list(read_labelled(section.validation, split=section.split, limit=most, reading=how))
        known = {record.problem_id for record in held_out}
        kept = [record for record in records if record.problem_id not in known]
        if len(kept) < len(records):
            log.warning(
                "%d solutions of problems that are in the validation set are left out of the training data",
                len(records) - len(kept),
            )
        return kept, held_out, lost
    limit = int(section.validation_share * 16**12)
    held_out = [record for record in records if int(record.problem_id, 16) < limit]
    if len(held_out) > most:
        log.warning("%d held-out solutions are not evaluated on (evaluation.rows)", len(held_out) - most)
    return [r for r in records if int(r.problem_id, 16) >= limit], held_out[:most], lost


def _labels(rows: Iterable[StepRow]) -> list[float]:
    return [float(label) for row in rows for label in row.labels[np.isfinite(row.labels)]]
