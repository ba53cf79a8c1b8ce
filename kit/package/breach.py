"""A breach: one rule that a bundle would break, with what was found and the way out."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Breach:
    """`rule` is the name that `--ignore-rule` takes; `found` breaks what is `wanted`."""

    rule: str
    found: str
    wanted: str
    fix: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.found}; {self.wanted}. {self.fix} (or --ignore-rule {self.rule})"


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check found: breaches refuse the build, notes are told and written down."""

    breaches: Sequence[Breach] = ()
    notes: Sequence[str] = field(default=())

    def __add__(self, other: "Findings") -> "Findings":
        return Findings((*self.breaches, *other.breaches), (*self.notes, *other.notes))
