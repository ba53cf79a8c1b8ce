"""`--array lr=1e-6,2e-6`: a run for every combination of values, each with a folder of its own."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

_OPENING, _CLOSING = "[{(", "]})"
_UNSAFE = re.compile(r"[^\w.=,+-]+")


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its overrides, and the name of its folder."""

    name: str
    overrides: tuple[str, ...]


def points(arrays: Sequence[str], taken: Sequence[str] = ()) -> list[Point]:
    """Every combination of the arrays' values, the last array's changing fastest.

    Args:
        arrays: `key=value,value,...`; commas within brackets or quotes divide nothing.
        taken: overrides that hold for all runs; no array may be of the same key.

    Raises:
        ValueError: an array of another form, a key twice, a value twice, or the key `out`.
    """
    axes: dict[str, list[str]] = {}
    held = {override.partition("=")[0].strip() for override in taken}
    for text in arrays:
        key, values = _axis(text)
        if key in axes or key in held:
            raise ValueError(f"--array {text!r}: {key} is given twice")
        axes[key] = values
    found = []
    for combination in itertools.product(*axes.values()):
        overrides = tuple(f"{key}={value}" for key, value in zip(axes, combination, strict=True))
        found.append(Point(_UNSAFE.sub("_", ",".join(overrides)), overrides))
    names = [point.name for point in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"--array: two runs would share the folder {twice}")
    return found


def _axis(text: str) -> tuple[str, list[str]]:
    key, separator, rest = text.partition("=")
    key, values = key.strip(), [value.strip() for value in _split(rest)]
    if not separator or not key or not all(values):
        raise ValueError(f"--array {text!r} is not of the form key=value,value,...")
    if key == "out":
        raise ValueError(
            "--array out=...: each run gets a folder of its own by itself, below the recipe's `out`"
        )
    return key, values


def _split(text: str) -> list[str]:
    """At commas that stand outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
