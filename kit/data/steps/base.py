"""What every cleaning step takes and gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from kit.data.records import Record

Tick = Callable[[], object]
"""Called once a record, for a progress bar."""


def no_tick() -> None:
    """Nobody watches."""


class Dropped(NamedTuple):
    """A record that a step took out."""

    record: Record
    reason: str
    """One of a few per step: the data card counts them."""
    detail: str = ""
    """What this record met, for example the test problem that it repeats."""


@dataclass(frozen=True)
class Outcome:
    """Kept and dropped records, each in the order in which they came; together they are all that came."""

    kept: list[Record] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    """Other counts for the data card."""


class Step(Protocol):
    """One way to take out records."""

    def apply(self, records: Sequence[Record], tick: Tick = no_tick) -> Outcome:
        """Never changes its input; the same input gives the same outcome."""


def sieve(records: Sequence[Record], why: Callable[[Record], tuple[str, str] | None], tick: Tick) -> Outcome:
    """Drop each record for which `why` gives a reason and a detail."""
    outcome = Outcome()
    for record in records:
        found = why(record)
        if found is None:
            outcome.kept.append(record)
        else:
            outcome.dropped.append(Dropped(record, *found))
        tick()
    return outcome
