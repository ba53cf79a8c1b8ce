"""How fast an engine writes when so many samples run side by side: a curve, a table, and the curve's fit."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

LEAST_HALF, MOST_HALF = 0.25, 4096.0
"""Bounds of a fit: below, more samples make less of everything; above, none slows another."""
GRID = 60
STEPS = 40
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


def fit_curve(samples: Sequence[tuple[float, Occupancy]]) -> Curve | None:
    """The curve by which the samples' speeds alone differ least: least squares of their logarithms.

    Args:
        samples: (tokens, occupancy) of each; those without tokens or seconds are passed over.

    Returns:
        None where the samples do not tell: too few, or all at one concurrency.
    """
    known = [(tokens, life) for tokens, life in samples if tokens > 0 and math.fsum(life.values()) > 0]
    means = [
        math.fsum(running * spent for running, spent in life.items()) / math.fsum(life.values())
        for _, life in known
    ]
    if len(known) < LEAST_SAMPLES or max(means) < LEAST_RANGE * min(means):
        return None
    low, high = math.log(LEAST_HALF), math.log(MOST_HALF)
    step = (high - low) / GRID
    best = min((low + number * step for number in range(GRID + 1)), key=lambda at: _spread(known, at)[0])
    left, right = max(low, best - step), min(high, best + step)
    for _ in range(STEPS):
        # A third each time: the least spread lies between the neighbours of the grid's best.
        first, second = left + (right - left) / 3, right - (right - left) / 3
        if _spread(known, first)[0] <= _spread(known, second)[0]:
            right = second
        else:
            left = first
    middle = (left + right) / 2
    return Curve(math.exp(_spread(known, middle)[1]), math.exp(middle))


def _spread(samples: Sequence[tuple[float, Occupancy]], log_half: float) -> tuple[float, float]:
    """Variance and mean of the logarithm of the samples' speeds alone."""
    curve = Curve(1.0, math.exp(log_half))
    speeds = [math.log(tokens / seconds_alone(life, curve)) for tokens, life in samples]
    mean = math.fsum(speeds) / len(speeds)
    return math.fsum((speed - mean) ** 2 for speed in speeds) / len(speeds), mean
