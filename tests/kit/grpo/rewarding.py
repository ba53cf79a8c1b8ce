"""Reward functions for the tests: imported by workers, so nothing else is."""

from typing import Any


def letters(sample: dict[str, Any]) -> float:
    """Varies from completion to completion of a random model: the mean of its characters, modulo 7."""
    return sum(map(ord, sample["completion"])) % 7 / 7


def coin(sample: dict[str, Any]) -> float:
    """0 or 1: many groups of four are equal."""
    return float(sum(map(ord, sample["completion"])) % 4 == 0)


def same(sample: dict[str, Any]) -> float:
    """No group has a signal."""
    return 1.0


def rarely(sample: dict[str, Any]) -> float | None:
    """None for about a third of the completions."""
    value = sum(map(ord, sample["completion"])) % 6
    return None if value < 2 else value / 6


def never(sample: dict[str, Any]) -> None:
    """No reward at all."""
