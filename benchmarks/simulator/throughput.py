"""How fast an engine writes when so many samples run side by side: a curve, a table, and the curve's fit."""

import math
from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Protocol

LEAST_HALF, MOST_HALF = 0.25, 4096.0
"""Bounds of a fit: below, more samples make less of everything; above, none slows another."""
GRID = 60
STEPS = 24
LEAST_SAMPLES = 8
LEAST_RANGE = 1.5
"""Between the lowest and highest mean concurrency of the samples, for a fit to say anything."""

Occupancy = Mapping[int, float]
"""Seconds of one sample's life that it spent among so many samples, itself included."""


class Throughput(Protocol):
    """An engine's speed."""

    def speed(self, running: int) -> float:
        """Tokens a second of each of `running` samples, at least 1; never rises with `running`."""


@dataclass(frozen=True)
class Curve:
    """speed(n) = single / (1 + (n - 1) / half): decoding is bound by memory first, then by arithmetic.

    Args:
        single: tokens a second of a sample alone.
        half: so many more samples halve each one's speed; the total tends to `single * half`.
    """

    single: float
    half: float

    def __post_init__(self) -> None:
        if not 0 < self.single < math.inf or not 0 < self.half <= math.inf:
            raise ValueError(f"throughput of {self.single} tokens/s, half at {self.half}: must be positive")

    def speed(self, running: int) -> float:
        """Tokens a second of each of `running` samples."""
        return self.single / (1 + (running - 1) / self.half)


@dataclass(frozen=True)
class Measured:
    """A benchmark's table: linear in between, each sample's speed flat below it, the total flat above it.

    Args:
        totals: (samples side by side, tokens a second of all of them together), samples rising.
    """

    totals: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        counts = [count for count, _ in self.totals]
        good = all(0 < total < math.inf for _, total in self.totals)
        if not counts or counts[0] < 1 or sorted(set(counts)) != counts or not good:
            raise ValueError(f"throughput {self.totals}: expected rising counts from 1 on, positive totals")
        each = [total / count for count, total in self.totals]
        if any(later > earlier for earlier, later in pairwise(each)):
            raise ValueError(f"throughput {self.totals}: a sample gets faster where more of them run")

    def speed(self, running: int) -> float:
        """Tokens a second of each of `running` samples."""
        counts = [count for count, _ in self.totals]
        place = bisect_right(counts, running)
        if place == 0:
            return self.totals[0][1] / self.totals[0][0]
        low, total = self.totals[place - 1]
        if place < len(self.totals):
            high, above = self.totals[place]
            total += (above - total) * (running - low) / (high - low)
        return total / running


def parse_throughput(text: str) -> Measured:
    """A table from "1:180,8:700,16:950": samples side by side, tokens a second of all of them.

    Raises:
        ValueError: another spelling, or no such table.
    """
    try:
        pairs = [part.split(":") for part in text.split(",")]
        totals = tuple((int(count), float(total)) for count, total in pairs)
    except ValueError:
        raise ValueError(
            f"throughput {text!r}: expected samples:tokens_a_second of all, as 1:180,8:700"
        ) from None
    return Measured(totals)


def occupancies(lives: Sequence[tuple[float, float]]) -> list[dict[int, float]]:
    """What each sample shared its life with.

    Args:
        lives: (begin, end) of each of the samples that one engine ran, seconds.
    """
    edges = sorted({edge for life in lives for edge in life})
    found: list[dict[int, float]] = [{} for _ in lives]
    for low, high in pairwise(edges):
        inside = [number for number, (begin, end) in enumerate(lives) if begin <= low and high <= end]
        for number in inside:
            found[number][len(inside)] = found[number].get(len(inside), 0.0) + high - low
    return found


def seconds_alone(occupancy: Occupancy, throughput: Throughput) -> float:
    """What the sample would have taken alone on the engine: its seconds, each by the speed of its time."""
    single = throughput.speed(1)
    return math.fsum(spent * throughput.speed(running) / single for running, spent in occupancy.items())


@dataclass(frozen=True)
class Fit:
    """A curve, and `first`: as many tokens as a sample could write in the time before its first one."""

    curve: Curve
    first: float


def fit_curve(samples: Sequence[tuple[float, Occupancy]], groups: Sequence[Hashable] = ()) -> Fit | None:
    """The curve by which the samples' speeds alone differ least: least squares of their logarithms.

    A sample waits for its prompt to be read before it writes, which makes short ones look slow: that wait is
    fitted along. Long samples say more than short ones, so each counts by its seconds alone.

    Args:
        samples: (tokens, occupancy) of each; those without tokens or seconds are passed over.
        groups: of each sample, what it was drawn in: a machine that drifts from one to the next does not
            bend the curve, where samples of one group had different company. Empty: all are one group.

    Returns:
        None where the samples do not tell: too few, or all at one concurrency.
    """
    labels = groups or [0] * len(samples)
    known = [
        (tokens, life, label)
        for (tokens, life), label in zip(samples, labels, strict=True)
        if tokens > 0 and math.fsum(life.values()) > 0
    ]
    telling = _telling(known)
    if not telling and len({label for _, _, label in known}) > 1:
        known = [(tokens, life, 0) for tokens, life, _ in known]
        telling = _telling(known)
    if not telling:
        return None
    table = _Table(telling)
    most = math.log1p(median(tokens for tokens, _, _ in telling))

    def waiting(log_half: float) -> float:
        return _least(lambda at: table.spread(log_half, at)[0], 0.0, most)

    low, high = math.log(LEAST_HALF), math.log(MOST_HALF)
    step = (high - low) / GRID
    best = min(
        (low + number * step for number in range(GRID + 1)),
        key=lambda at: table.spread(at, waiting(at))[0],
    )
    # The least spread lies between the neighbours of the grid's best.
    half = _least(lambda at: table.spread(at, waiting(at))[0], max(low, best - step), min(high, best + step))
    wait = waiting(half)
    return Fit(Curve(math.exp(table.spread(half, wait)[1]), math.exp(half)), math.expm1(wait))


def _least(value: Callable[[float], float], left: float, right: float) -> float:
    """Where it is least, by thirds: it falls and then rises between the two."""
    for _ in range(STEPS):
        first, second = left + (right - left) / 3, right - (right - left) / 3
        if value(first) <= value(second):
            right = second
        else:
            left = first
    return (left + right) / 2


_Known = tuple[float, Occupancy, Hashable]


def _telling(known: Sequence[_Known]) -> list[_Known]:
    """The samples of the groups whose members had different company; none where they are too few."""
    found: list[_Known] = []
    for label in dict.fromkeys(label for _, _, label in known):
        own = [one for one in known if one[2] == label]
        means = [
            math.fsum(running * spent for running, spent in life.items()) / math.fsum(life.values())
            for _, life, _ in own
        ]
        if max(means) >= LEAST_RANGE * min(means):
            found += own
    return found if len(found) >= LEAST_SAMPLES else []


class _Table:
    """Samples as arrays: a fit asks for their spread thousands of times."""

    def __init__(self, known: Sequence[_Known]) -> None:
        import numpy as np

        parts = [
            (index, running, spent)
            for index, (_, life, _) in enumerate(known)
            for running, spent in life.items()
        ]
        self._owner = np.asarray([index for index, _, _ in parts])
        self._others = np.asarray([running - 1.0 for _, running, _ in parts])
        self._spent = np.asarray([spent for _, _, spent in parts])
        self._tokens = np.asarray([tokens for tokens, _, _ in known])
        labels = [label for _, _, label in known]
        numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        self._group = np.asarray([numbers[label] for label in labels])

    def spread(self, log_half: float, log_wait: float) -> tuple[float, float]:
        """Variance within groups, and mean, of the logarithm of the samples' speeds alone."""
        import numpy as np

        alone = np.bincount(self._owner, self._spent / (1 + self._others / math.exp(log_half)))
        speeds = np.log((self._tokens + math.expm1(log_wait)) / alone)
        weights = np.bincount(self._group, alone)
        means = np.bincount(self._group, alone * speeds) / weights
        total = float(alone.sum())
        residual = float((alone * (speeds - means[self._group]) ** 2).sum())
        return residual / total, float((weights * means).sum()) / total
