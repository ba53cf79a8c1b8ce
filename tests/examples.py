"""How many examples a property is tried on, where it needs another number than the profile's."""

from hypothesis import settings


def examples(number: int) -> int:
    """`number` in the run of all tests, and as much less of them in the quick run as others are given."""
    return max(5, number * settings().max_examples // 100)
