"""One problem once: exact duplicates, and near ones by MinHash (Broder 1997) through `datasketch`.

Exact: equal `tokens` (`kit.data.text`), so spacing and LaTeX layout do not matter, signs do. Near: by Jaccard
similarity of the sets of `shingle` tokens in a row. MinHash proposes and the exact similarity decides: no
false positives, and one pair in ten thousand missed at the default threshold. Problems often differ by a
number only, and are then others: near duplicates hold the same numbers.

The first problem of a group stands for it; others are compared with it alone (no chains). Completions that
differ are kept, up to `completions` a problem. One pass, under 1 ms a problem; memory is that of the records,
plus 128 hashes and the shingles of each problem.
"""

from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from kit.data.records import Record
from kit.data.steps.base import Outcome, Tick, no_tick, sieve
from kit.data.text import numbers, tokens
from submission.recipes import Recipe

SAME_TEXT = "same completion of the same problem"
EXACT = "same problem"
NEAR = "nearly the same problem"
PERMUTATIONS = 128


class Duplicates(Recipe):
    """Settings of the step."""

    completions: int = Field(default=1, ge=0)
    """Completions kept a problem, the first ones; 0 keeps all that differ."""
    near: bool = True
    """Whether near duplicates count as the same problem."""
    threshold: float = Field(default=0.85, ge=0.3, le=1)
    """Jaccard similarity from which on two problems are near duplicates."""
    shingle: int = Field(default=3, ge=1)
    """Tokens in a row that are compared."""
    same_numbers: bool = True
    """Near duplicates must hold the same numbers."""

    def apply(self, records: Sequence[Record], tick: Tick = no_tick) -> Outcome:
        """The first record of every problem (`completions` of them) is kept."""
        groups = _Groups(self)
        texts: set[tuple[int, str]] = set()
        counts: Counter[int] = Counter()

        def why(record: Record) -> tuple[str, str] | None:
            group, first, exact = groups.find(record.problem)
            text = (group, record.completion.strip())
            if record.completion and text in texts:
                return SAME_TEXT, _shown(first)
            full = self.completions and counts[group] >= self.completions
            if full or text in texts:
                return EXACT if exact else NEAR, _shown(first)
            texts.add(text)
            counts[group] += 1
            return None

        outcome = sieve(records, why, tick)
        outcome.notes["different problems"] = len(counts)
        return outcome


def _shown(problem: str) -> str:
    return f"like {problem[:100]!r}"


class _Groups:
    """Numbers the groups of problems; grows with each new one."""

    def __init__(self, settings: Duplicates) -> None:
        from datasketch import MinHashLSH

        self._settings = settings
        self._exact: dict[tuple[str, ...], tuple[int, bool]] = {}
        self._firsts: list[str] = []
        self._shingles: list[frozenset[str]] = []
        self._numbers: list[list[str]] = []
        # Tuned against misses: a pair proposed in vain only costs its exact comparison.
        self._lsh = MinHashLSH(0.8 * settings.threshold, PERMUTATIONS, weights=(0.1, 0.9))

    def find(self, problem: str) -> tuple[int, str, bool]:
        """Number of its group, the first problem of that, and whether they are the same token by token."""
        key = tokens(problem)
        known = self._exact.get(key)
        if known is None:
            near = self._near(problem, key) if self._settings.near else None
            known = (len(self._firsts), True) if near is None else (near, False)
            if near is None:
                self._firsts.append(problem)
            self._exact[key] = known
        group, exact = known
        return group, self._firsts[group], exact

    def _near(self, problem: str, key: tuple[str, ...]) -> int | None:
        """The group that it is a near duplicate of; else it is entered as the next group's first."""
        size = self._settings.shingle
        shingles = frozenset(" ".join(key[i : i + size]) for i in range(max(1, len(key) - size + 1)))
        own = numbers(problem) if self._settings.same_numbers else []
        sketch = self._sketch(shingles)
        for group in sorted(self._lsh.query(sketch)):
            other = self._shingles[group]
            common = len(shingles & other)
            alike = common / (len(shingles) + len(other) - common)
            if alike >= self._settings.threshold and own == self._numbers[group]:
                return int(group)
        self._lsh.insert(len(self._firsts), sketch)
        self._shingles.append(shingles)
        self._numbers.append(own)
        return None

    def _sketch(self, shingles: frozenset[str]) -> object:
        from datasketch import MinHash

        sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in shingles])
        return sketch
