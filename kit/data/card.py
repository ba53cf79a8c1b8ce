"""The data card: what went in, what each step took out and why, and what came out.

It holds no date: the same run gives the same card.
"""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceReport(_Part):
    """One set, as read."""

    name: str
    path: str
    split: str
    records: int
    problems: int
    """Different texts."""
    licences: list[str]
    unreadable: int
    """Rows (or completions within a row) that gave no record."""
    unreadable_reasons: dict[str, int]
    """The five most frequent."""


class Example(_Part):
    """One dropped record, cut to its first 200 characters."""

    reason: str
    detail: str
    source: str
    problem: str


class StepReport(_Part):
    """One step, as taken."""

    name: str
    settings: dict[str, Any]
    before: int
    kept: int
    reasons: dict[str, int]
    notes: dict[str, int]
    examples: list[Example]


class Card(_Part):
    """All of it; card.json is this."""

    records: int
    problems: int
    completions: int
    kept_by_source: dict[str, int]
    licences: dict[str, int]
    characters: int
    """Of problems and completions together."""
    sha256: str
    """Of records.jsonl."""
    sources: list[SourceReport]
    steps: list[StepReport]
    held_out: dict[str, int]
    """Problems of each test set that was looked for."""


def markdown(card: Card) -> str:
    """The card for people. Texts of the sets are hostile: they come out as inert code spans."""
    parts = [
        "# Data card",
        "",
        f"{card.records:,} records, {card.problems:,} problems, {card.completions:,} completions, "
        f"{card.characters:,} characters. SHA-256 of records.jsonl: `{card.sha256}`",
        "",
        "## Sources",
        "",
        *_table(
            ("source", "set", "split", "licence", "records", "problems", "unreadable rows"),
            [
                (
                    _code(source.name),
                    _code(source.path),
                    _code(source.split),
                    _code(", ".join(source.licences) or "not stated"),
                    f"{source.records:,}",
                    f"{source.problems:,}",
                    f"{source.unreadable:,}",
                )
                for source in card.sources
            ],
        ),
    ]
    parts.append("")
    for source in card.sources:
        parts += [
            f"- unreadable in {_code(source.name)}: {_code(reason)} ({count:,})\n"
            for reason, count in source.unreadable_reasons.items()
        ]
    parts += ["Kept, by source: " + _counts(card.kept_by_source)]
    parts += ["", "Licences of the kept records: " + _counts(card.licences)]
    if card.held_out:
        parts += ["", "Test sets (number of problems): " + _counts(card.held_out)]
    parts += ["", "## Steps", "", *_steps(card.steps)]
    for step in card.steps:
        parts += ["", *_details(step)]
    return "\n".join(parts) + "\n"


def _steps(steps: Iterable[StepReport]) -> list[str]:
    rows = []
    for step in steps:
        dropped = step.before - step.kept
        share = dropped / step.before if step.before else 0.0
        rows.append((step.name, f"{step.before:,}", f"{step.kept:,}", f"{dropped:,}", f"{share:.2%}"))
    return _table(("step", "in", "out", "dropped", "share"), rows)


def _details(step: StepReport) -> list[str]:
    lines = [f"### {step.name}", "", f"Settings: {_code(_flat(step.settings))}"]
    if step.notes:
        lines += ["", "Counts: " + _counts(step.notes)]
    for reason, count in step.reasons.items():
        lines += ["", f"**{reason}**: {count:,}", ""]
        for example in step.examples:
            if example.reason == reason:
                detail = f" ({_code(example.detail)})" if example.detail else ""
                lines.append(f"- {_code(example.source)} {_code(example.problem)}{detail}")
    return lines


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    rule = "|" + "---|" * len(head)
    return [_row(head), rule, *map(_row, rows)]


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{_code(name)} {count:,}" for name, count in counts.items())


def _flat(settings: dict[str, Any]) -> str:
    parts = []
    for key, value in settings.items():
        sets = isinstance(value, dict)
        shown = ", ".join(f"{name} ({part['path']})" for name, part in value.items()) if sets else value
        parts.append(f"{key} = {shown}")
    return "; ".join(parts)


def _code(text: str) -> str:
    """A code span of one line: no control character and no backtick gets into it."""
    plain = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", " ", text).split())
    return "`" + plain.replace("`", "'") + "`" if plain else "(empty)"
