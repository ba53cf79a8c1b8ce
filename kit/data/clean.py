"""Run a data recipe: read the sets, take the steps in order, write the records and their card.

`out` gets recipe.json (what is being made), records.jsonl (trace format), card.md and card.json, each at once
or not at all. The same sets and recipe give the same bytes; a run that was killed is simply started again.

All records are held in memory: 1 kB each, and their text at one byte a character, or two where it holds any
sign beyond Latin-1, as R1's traces often do (450 000 of 15 000 characters: up to 14 GB).
The steps say how their time grows: all do with the characters of the records, none with their square.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kit.data.card import Card, Example, SourceReport, StepReport, markdown
from kit.data.readers import Unreadable
from kit.data.recipe import DataRecipe
from kit.data.records import Record, write_records
from kit.data.sources import Source
from kit.data.steps.base import Dropped, Outcome, Tick, no_tick
from kit.data.steps.contamination import Contamination
from submission.files import write_text

EXAMPLES = 3
"""Drops shown for each reason."""
RECIPE_FILE, RECORDS_FILE, CARD_FILE, CARD_DATA_FILE = "recipe.json", "records.jsonl", "card.md", "card.json"
_PREVIEW = 3

Watch = Callable[[str, int | None], Tick]
"""Told of each part of the work and its size (None: unknown); what it gives is called once a record."""


def no_watch(_title: str, _total: int | None) -> Tick:
    """Nobody watches."""
    return no_tick


def clean(recipe: DataRecipe, watch: Watch = no_watch) -> Card:
    """Make the cleaned set that `recipe` describes.

    Raises:
        ValueError: a set cannot be read, a step left nothing, or `out` holds something else.
    """
    _check_out(recipe)
    steps = recipe.chosen()
    held_out: dict[str, int] = {}
    for _, step in steps:
        if isinstance(step, Contamination):  # before the long work: a missing test set ends it here
            watch("reading test sets", None)
            held_out = dict(Counter(name for name, _ in step.held_out.problems))
    records, sources = collect(recipe, watch)
    reports = []
    for name, step in steps:
        outcome = step.apply(records, watch(name, len(records)))
        reports.append(_step_report(name, recipe, outcome))
        if not outcome.kept:
            why = ", ".join(f"{reason}: {count}" for reason, count in reports[-1].reasons.items())
            raise ValueError(
                f"step {name!r} left none of {len(records)} records ({why}); relax or leave it out"
            )
        records = outcome.kept
    return _write(recipe, records, sources, reports, held_out)


def collect(recipe: DataRecipe, watch: Watch = no_watch) -> tuple[list[Record], list[SourceReport]]:
    """All records of all sources, and what was read where."""
    records: list[Record] = []
    reports = []
    for name, source in recipe.sources.items():
        bad: list[Unreadable] = []
        before = len(records)
        tick = watch(f"reading {name}", source.limit or None)
        for record in source.read(name, recipe.root, unreadable=bad):
            records.append(_relocated(record, source, recipe))
            tick()
        reports.append(_source_report(name, source, records[before:], bad))
    return records, reports


def preview(recipe: DataRecipe) -> Iterator[tuple[str, list[Record]]]:
    """The first records of each source and test set; reads no more than these.

    Raises:
        ValueError: as `clean` would.
    """
    _check_out(recipe)
    against = recipe.contamination.against if "contamination" in recipe.steps else {}
    named = [*recipe.sources.items(), *((f"test set {name}", source) for name, source in against.items())]
    for name, source in named:
        short = source.model_copy(update={"limit": _PREVIEW})
        yield name, list(short.read(name, recipe.root))


def _check_out(recipe: DataRecipe) -> None:
    out = recipe.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"out = {out} is not a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        text = (out / RECIPE_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"out = {out} holds other files; choose an empty or new folder") from None
    if text != _stated(recipe):
        raise ValueError(
            f"out = {out} holds the result of another recipe; choose another folder, or delete it"
        )


def _stated(recipe: DataRecipe) -> str:
    return json.dumps(recipe.model_dump(mode="json", exclude={"out"}), indent=2) + "\n"


def _relocated(record: Record, source: Source, recipe: DataRecipe) -> Record:
    """Cached log-probabilities stay where they are; their path is told from the new file's folder."""
    if record.topk is None:
        return record
    folder = Path(source.located(recipe.root)).parent
    path = os.path.relpath(folder / record.topk.file, recipe.out)
    return record.model_copy(update={"topk": record.topk.model_copy(update={"file": path})})


def _source_report(
    name: str, source: Source, records: Sequence[Record], bad: Sequence[Unreadable]
) -> SourceReport:
    return SourceReport(
        name=name,
        path=source.path,
        split=source.split,
        records=len(records),
        problems=len({record.problem for record in records}),
        licences=sorted({record.licence for record in records} - {""}),
        unreadable=len(bad),
        unreadable_reasons=dict(Counter(row.reason for row in bad).most_common(5)),
    )


def _step_report(name: str, recipe: DataRecipe, outcome: Outcome) -> StepReport:
    reasons = Counter(drop.reason for drop in outcome.dropped)
    shown: Counter[str] = Counter()
    examples = []
    for drop in outcome.dropped:
        if shown[drop.reason] < EXAMPLES:
            shown[drop.reason] += 1
            examples.append(_example(drop))
    return StepReport(
        name=name,
        settings=getattr(recipe, name).model_dump(mode="json"),
        before=len(outcome.kept) + len(outcome.dropped),
        kept=len(outcome.kept),
        reasons=dict(reasons.most_common()),
        notes=outcome.notes,
        examples=examples,
    )


def _example(drop: Dropped) -> Example:
    return Example(
        reason=drop.reason,
        detail=drop.detail[:200],
        source=drop.record.source,
        problem=drop.record.problem[:200],
    )


def _write(
    recipe: DataRecipe,
    records: Sequence[Record],
    sources: list[SourceReport],
    steps: list[StepReport],
    held_out: dict[str, int],
) -> Card:
    write_text(recipe.out / RECIPE_FILE, _stated(recipe))
    write_records(recipe.out / RECORDS_FILE, records)
    with (recipe.out / RECORDS_FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    card = Card(
        records=len(records),
        problems=len({record.problem for record in records}),
        completions=sum(bool(record.completion) for record in records),
        kept_by_source=dict(Counter(record.source for record in records).most_common()),
        licences=dict(Counter(record.licence or "not stated" for record in records).most_common()),
        characters=sum(len(record.problem) + len(record.completion) for record in records),
        sha256=digest,
        sources=sources,
        steps=steps,
        held_out=held_out,
    )
    write_text(recipe.out / CARD_FILE, markdown(card))
    write_text(recipe.out / CARD_DATA_FILE, card.model_dump_json(indent=2) + "\n")
    return card
