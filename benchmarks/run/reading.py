"""Finished runs read back from their folders, and two of them laid side by side."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.run.tables import ANSWERS, RESULTS
from benchmarks.statistics.paired import Comparison, compare

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Graded:
    """One set of a run: problem ids, and [repeats, problems] of 1 for a right answer."""

    ids: tuple[str, ...]
    right: "npt.NDArray[np.float64]"


@dataclass(frozen=True)
class LoadedRun:
    """A finished run.

    Args:
        folder: where it lies.
        results: results.json.
        sets: graded answers by the set's name.
    """

    folder: Path
    results: Mapping[str, Any]
    sets: Mapping[str, Graded]


def load_run(folder: Path) -> LoadedRun:
    """Read a run's folder.

    Raises:
        ValueError: it holds no finished run.
    """
    import polars as pl

    try:
        results = _checked(json.loads((folder / RESULTS).read_bytes()))
        table = pl.read_csv(folder / ANSWERS, schema_overrides={"id": pl.String, "set": pl.String})
        cells: dict[str, dict[tuple[str, int], bool]] = {}
        for name, repeat, identifier, right in table.select("set", "repeat", "id", "right").iter_rows():
            cells.setdefault(name, {})[identifier, repeat] = right
        sets = {name: _graded(found) for name, found in cells.items()}
        _check_whole(results, sets)
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        first = str(error).partition("\n")[0][:200]
        raise ValueError(f"{folder} holds no finished run of benchmarks.run: {first}") from None
    return LoadedRun(folder, results, sets)


def _checked(results: Any) -> dict[str, Any]:
    """The results, if they have the parts that every reader asks for."""
    parts = {"repeat": int, "sets": dict, "figures": dict, "contests": list}
    for part, kind in parts.items():
        if not isinstance(results, dict) or not isinstance(results.get(part), kind):
            raise ValueError(f"{RESULTS} has no {part}: it is damaged, or of another version")
    found: dict[str, Any] = results
    return found


def _check_whole(results: Mapping[str, Any], sets: Mapping[str, Graded]) -> None:
    """Refuse answers of which some got lost: what is left would be taken for the whole."""
    for name, known in results["sets"].items():
        wanted = (results["repeat"], known["problems"])
        if name not in sets or sets[name].right.shape != wanted:
            held = sets[name].right.shape if name in sets else (0, 0)
            raise ValueError(
                f"{ANSWERS} has answers to {held[1]} problems in {held[0]} repeats of set {name}, and "
                f"{RESULTS} tells of {wanted[1]} in {wanted[0]}"
            )


def _graded(cells: Mapping[tuple[str, int], bool]) -> Graded:
    import numpy as np

    ids = tuple(dict.fromkeys(identifier for identifier, _ in cells))
    repeats = sorted({repeat for _, repeat in cells})
    rows = [[cells[identifier, repeat] for identifier in ids] for repeat in repeats]
    return Graded(ids, np.asarray(rows, dtype=np.float64))


def compare_runs(first: LoadedRun, second: LoadedRun, *, seed: int = 0) -> dict[str, Comparison]:
    """The second run above the first, on each set that both have.

    Raises:
        ValueError: no set is in both, or one has other problems in one of them, or the modes differ.
    """
    for key in ("mode", "samples", "time_limit"):
        if first.results.get(key) != second.results.get(key):
            raise ValueError(
                f"{first.folder} and {second.folder} cannot be compared: {key} is {first.results.get(key)!r} "
                f"and {second.results.get(key)!r}"
            )
    found = {}
    for name in first.sets:
        if name not in second.sets:
            continue
        one, other = (run.results["sets"][name]["digest"] for run in (first, second))
        if one != other or first.sets[name].ids != second.sets[name].ids:
            raise ValueError(f"set {name} has other problems in {first.folder} than in {second.folder}")
        found[name] = compare(first.sets[name].right, second.sets[name].right, seed=seed)
    if not found:
        raise ValueError(f"{first.folder} and {second.folder} have no set in common")
    return found
