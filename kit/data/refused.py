"""Rows of a set that cannot be used: counted by reason, with one example of each."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from kit.data.readers import Unreadable


@dataclass
class Refused:
    """How many rows were refused for which reason; a base of what was made of the others."""

    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """The first row of each reason, for the report."""

    def refuse(self, reason: str, row: int, detail: str = "") -> None:
        """Count one row."""
        self._count(reason, f"row {row}{f': {detail}' if detail else ''}")

    def refuse_unreadable(self, rows: "Iterable[Unreadable]") -> None:
        """Count the rows that gave no record."""
        for row in rows:
            self._count("row cannot be read", f"{row.place}: {row.reason}")

    def _count(self, reason: str, example: str) -> None:
        self.refused[reason] += 1
        self.examples.setdefault(reason, example)

    def nothing_left(self, place: str, wanted: str) -> ValueError:
        """The error to raise where `place` has nothing `wanted`; it tells all reasons."""
        reasons = "; ".join(
            f"{reason} ({count}, {self.examples[reason]})" for reason, count in self.refused.items()
        )
        return ValueError(f"{place} has no {wanted}: {reasons or 'it has no rows'}")


def describe_refused(found: Refused, console: "Console") -> None:
    """One line a reason."""
    for reason, count in found.refused.most_common():
        console.print(f"left out: {reason}: {count} ({found.examples[reason][:160]})", markup=False)
