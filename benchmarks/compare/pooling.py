"""Runs that may be compared, brought to one table each: the same problems in the same order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from benchmarks.run.reading import LoadedRun

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_RUNS = len(ascii_uppercase)


@dataclass(frozen=True)
class Entry:
    """One run: `letter` is its name on the page.

    Args:
        run: as it was read.
        right: [repeats, problems] over all compared sets, 1 for a right answer.
        minutes, tokens: of one repeat of the compared sets, mean.
        troubles: what a reader has to know before the figures.
    """

    letter: str
    run: LoadedRun
    right: "npt.NDArray[np.float64]"
    minutes: float
    tokens: float
    troubles: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.mean())


@dataclass(frozen=True)
class Pooled:
    """All that is compared.

    Args:
        entries: in the order in which they were named.
        sets: names of the compared sets.
        problems: (set, id) of each column.
        dropped: problems left out because a run's training data holds them.
        notes: what else was left out.
    """

    entries: tuple[Entry, ...]
    sets: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]
    dropped: int
    notes: tuple[str, ...]


def pool(runs: Sequence[LoadedRun], only: Sequence[str] = ()) -> Pooled:
    """Lay runs side by side on the sets that all have.

    A problem that was in any run's training data is left out of all: it favours that run.

    Args:
        runs: two or more.
        only: sets to compare; all common ones where empty.

    Raises:
        ValueError: too few or too many runs, one named twice, runs of different modes or limits, no common
            set, a set with other problems in one of them, a set of `only` that is not common, or no problem
            left.
    """
    import numpy as np

    if not 2 <= len(runs) <= MOST_RUNS:
        raise ValueError(f"{len(runs)} runs: name 2 to {MOST_RUNS} folders")
    check_alike(runs)
    common = [name for name in runs[0].sets if all(name in run.sets for run in runs)]
    if not common:
        told = "; ".join(f"{run.folder}: {', '.join(run.sets)}" for run in runs)
        raise ValueError(f"the runs have no set in common ({told})")
    unknown = [name for name in only if name not in common]
    if unknown:
        raise ValueError(f"set {unknown[0]!r} is not in all runs; in all are {', '.join(common)}")
    sets = tuple(name for name in common if not only or name in only)
    whole, kept = shared_problems(runs, sets)
    entries = []
    for letter, run in zip(ascii_uppercase, runs, strict=False):
        right = np.concatenate([run.sets[name].right for name in sets], axis=1)[:, kept]
        entries.append(Entry(letter, run, right, *_costs(run, sets), troubles(run, sets)))
    left = sorted({name for run in runs for name in run.sets} - set(common))
    notes = [f"not in all runs, so not compared: {', '.join(left)}"] if left else []
    return Pooled(tuple(entries), sets, tuple(whole[n] for n in kept), len(whole) - len(kept), tuple(notes))


def shared_problems(
    runs: Sequence[LoadedRun], sets: Sequence[str]
) -> tuple[list[tuple[str, str]], list[int]]:
    """(set, id) of all problems of these sets, and the places of those that no run had in its training data.

    Raises:
        ValueError: a set has other problems in one of the runs, or no problem is left.
    """
    for name in sets:
        _check_set(runs, name)
    seen = {
        (name, identifier)
        for run in runs
        for name in sets
        for identifier in run.results["figures"][name].get("contaminated", ())
    }
    whole = [(name, identifier) for name in sets for identifier in runs[0].sets[name].ids]
    kept = [number for number, key in enumerate(whole) if key not in seen]
    if not kept:
        raise ValueError(f"all {len(whole)} problems were in the training data: nothing is left to compare")
    return whole, kept


def check_alike(runs: Sequence[LoadedRun]) -> None:
    """Refuse runs that were played otherwise.

    Raises:
        ValueError: one is named twice, or they have other modes, limits or numbers of samples.
    """
    folders = [run.folder.resolve() for run in runs]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise ValueError(f"{runs[number].folder} is named twice")
    for first, second in pairwise(runs):
        for key in ("mode", "samples", "time_limit"):
            one, other = first.results.get(key), second.results.get(key)
            if one != other:
                raise ValueError(
                    f"{first.folder} and {second.folder} cannot be compared: {key} is {one!r} and {other!r}"
                )


def _check_set(runs: Sequence[LoadedRun], name: str) -> None:
    for first, second in pairwise(runs):
        one, other = (run.results["sets"][name]["digest"] for run in (first, second))
        if one != other or first.sets[name].ids != second.sets[name].ids:
            raise ValueError(f"set {name} has other problems in {first.folder} than in {second.folder}")


def _costs(run: LoadedRun, sets: Sequence[str]) -> tuple[float, float]:
    results, repeats = run.results, run.results["repeat"]
    seconds = sum(one["elapsed"] for one in results["contests"] if one["set"] in sets)
    return seconds / 60 / repeats, sum(sum(results["figures"][name]["tokens"]) for name in sets) / repeats


def troubles(run: LoadedRun, sets: Sequence[str]) -> tuple[str, ...]:
    """What a reader has to know of a run before its figures: defaults, failed samples, faults."""
    results: Any = run.results
    found = []
    unanswered = sum(sum(results["figures"][name].get("unanswered", ())) for name in sets)
    if unanswered:
        found.append(f"{unanswered} answers are the default: no sample answered")
    missing = sum(results["figures"][name].get("missing", 0) for name in sets)
    if missing:
        found.append(f"{missing} samples failed or never were; they count as wrong")
    faults = dict.fromkeys(
        fault for one in results["contests"] if one["set"] in sets for fault in one["faults"]
    )
    return (*found, *(f"fault: {fault}" for fault in faults))
