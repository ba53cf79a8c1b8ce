"""Take out training problems that are in a test set: equal ones, and those that share their n-grams.

Two rules, either is enough: the problem equals a test problem token by token (`kit.data.text.tokens`), or at
least `overlap` of a test problem's n-grams of words are in it. The share counts, not a single common n-gram:
contest problems open and close alike ("Express your answer as a common fraction"). A test problem of fewer
than `ngram` words is only found when equal.

Measured with the 7 474 problems of MATH's training set against 1 427 of its test problems, n = 8: any common
n-gram takes out 21 %, a share of 0.5 takes out 1.6 %, 0.6 0.9 %, 0.8 0.4 %. Down to 0.6 these are repeated
problems and the same problem with another number; below, mostly a common drawing or request.

Time grows with the words of the training set (some 5 000 problems of MATH's length a second), memory with the
words of the test sets.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from kit.data.records import Record
from kit.data.sources import Source
from kit.data.steps.base import Outcome, Tick, no_tick, sieve
from kit.data.text import tokens, words
from submission.recipes import Recipe

EQUAL = "equals a test problem"
OVERLAP = "overlaps a test problem"


class Hit(NamedTuple):
    """The test problem that a text repeats most."""

    test_set: str
    problem: str
    share: float
    """Of the test problem's n-grams; 1 where the two are equal."""
    equal: bool


class HeldOut:
    """The problems of test sets, by their n-grams.

    Args:
        sets: problems of each named set.
        ngram: words in a row.
    """

    def __init__(self, sets: Mapping[str, Iterable[str]], ngram: int = 8) -> None:
        self.ngram = ngram
        self.problems = [(name, problem) for name, problems in sets.items() for problem in problems]
        self._equal: dict[tuple[str, ...], int] = {}
        self._holders: defaultdict[str, list[int]] = defaultdict(list)
        self._sizes: list[int] = []
        for index, (_, problem) in enumerate(self.problems):
            self._equal.setdefault(tokens(problem), index)
            grams = self._grams(problem)
            self._sizes.append(len(grams))
            for gram in grams:
                self._holders[gram].append(index)

    def find(self, text: str, overlap: float) -> Hit | None:
        """The test problem that `text` equals, or else the one it repeats most, if by `overlap` or more."""
        equal = self._equal.get(tokens(text))
        if equal is not None:
            return Hit(*self.problems[equal], 1.0, equal=True)
        shared = Counter(index for gram in self._grams(text) for index in self._holders.get(gram, ()))
        if not shared:
            return None
        share, first = max((count / self._sizes[index], -index) for index, count in shared.items())
        return Hit(*self.problems[-first], share, equal=False) if share >= overlap else None

    def _grams(self, text: str) -> set[str]:
        found = words(text)
        return {" ".join(found[i : i + self.ngram]) for i in range(len(found) - self.ngram + 1)}


class Contamination(Recipe):
    """Settings of the step."""

    against: dict[str, Source] = Field(default_factory=dict)
    """The test sets, by name."""
    ngram: int = Field(default=8, ge=1)
    """Words in a row; 8 and 13 are usual."""
    overlap: float = Field(default=0.6, gt=0, le=1)
    """Share of a test problem's n-grams from which on it counts as repeated."""
    root: Path = Path()
    """Folder that paths of local test sets are relative to."""

    @cached_property
    def held_out(self) -> HeldOut:
        """The test sets, read when first asked for.

        Raises:
            ValueError: there are none, or one cannot be read.
        """
        if not self.against:
            raise ValueError("contamination.against names no test set; name one, or leave the step out")
        sets = {
            name: [record.problem for record in source.read(name, self.root)]
            for name, source in self.against.items()
        }
        return HeldOut(sets, self.ngram)

    def apply(self, records: Sequence[Record], tick: Tick = no_tick) -> Outcome:
        """Drops name the test set and its problem."""
        outcome = remove(records, self.held_out, self.overlap, tick)
        for name in self.against:
            hits = sum(drop.detail.startswith(f"{name}:") for drop in outcome.dropped)
            outcome.notes[f"hits in {name}"] = hits
        return outcome


def remove(records: Sequence[Record], held_out: HeldOut, overlap: float, tick: Tick = no_tick) -> Outcome:
    """Drop the records whose problem is in `held_out`; several completions of one are looked up once."""
    seen: dict[str, tuple[str, str] | None] = {}

    def why(record: Record) -> tuple[str, str] | None:
        if record.problem not in seen:
            hit = held_out.find(record.problem, overlap)
            seen[record.problem] = hit and (EQUAL if hit.equal else OVERLAP, _shown(hit))
        return seen[record.problem]

    return sieve(records, why, tick)


def _shown(hit: Hit) -> str:
    return f"{hit.test_set}: {hit.share:.0%} of {hit.problem[:100]!r}"
