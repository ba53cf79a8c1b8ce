"""Right or wrong, and who votes with whom, for answers of any kind.

An integer of the contest's range is what the contest itself read. Any other gold answer is compared with the
sample's text, and answers that mean the same are one vote however they are spelled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from benchmarks.run.gathering import ENDED, Drawn
from kit.attempts import canonical
from submission.answers import Gold, equal, extract, parse_gold
from submission.parsing.symbolic import SymbolicChecker

MOST_CLASSES = 32
"""Different answers to a problem that a new one is compared with: algebra takes milliseconds a pair."""


@dataclass(frozen=True)
class Verdict:
    """What a sample answers, as its votes count (None: nothing), and whether that is right."""

    answer: str | None
    right: bool


class Judge:
    """Judges samples; a context manager, whose algebra runs in processes that can be killed."""

    def __init__(self) -> None:
        self._checker = SymbolicChecker()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._checker.close()

    def samples(
        self, samples: Sequence[Drawn], gold: Gold, low: int, high: int, *, last_number: bool
    ) -> list[Verdict]:
        """One verdict a sample, in their order.

        What a cut-off sample had put in a box votes where the contest lets it, and nowhere else.
        """
        if gold.integer is not None and low <= gold.integer <= high:
            return [_integer(one.line.answer, gold.integer) for one in samples]
        same = _Classes(gold, lambda first, second: equal(first, second, self._checker))
        return [
            same.verdict(one.line.text, last_number=last_number)
            if one.line.finish in ENDED
            else Verdict(None, right=False)
            for one in samples
        ]


def _integer(answer: int | None, gold: int) -> Verdict:
    return Verdict(None if answer is None else str(answer), answer == gold)


class _Classes:
    """Answers to one problem, each class with a first spelling that stands for it."""

    def __init__(self, gold: Gold, same: Callable[[str, Gold], bool]) -> None:
        self._gold = gold
        self._same = same
        self._known: dict[str, Verdict] = {}
        self._heads: list[tuple[Gold, Verdict]] = []

    def verdict(self, text: str, *, last_number: bool) -> Verdict:
        found = extract(text, last_number=last_number)
        spelled = None if found is None else canonical(found.text)
        if found is None or spelled is None:
            return Verdict(None, right=False)
        key = str(spelled)
        if key not in self._known:
            self._known[key] = self._class_of(found.text, key)
        return self._known[key]

    def _class_of(self, answer: str, key: str) -> Verdict:
        if self._same(answer, self._gold):
            return Verdict(self._gold.normalized, right=True)
        for head, verdict in self._heads[:MOST_CLASSES]:
            if self._same(answer, head):
                return verdict
        verdict = Verdict(key, right=False)
        try:
            self._heads.append((parse_gold(answer), verdict))
        except ValueError:  # too odd to be compared with: it stands alone
            return verdict
        return verdict
