"""What studies have in common whose arms go on from a start of each seed."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.learning.runs import read_result
from kit.data.records import write_records
from kit.worked import Split, generate

if TYPE_CHECKING:
    from benchmarks.learning.grpo_settings import GrpoStudy
    from benchmarks.learning.prm_settings import PrmStudy

START = "start"
DRAWS = 1_000
"""Draws of the generator that a seed has: seed * DRAWS + number."""
# One that no round of a start has.
_PROBLEMS = DRAWS - 1


class ArmRun(NamedTuple):
    """One arm's run of one seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}-{self.seed}"


def write_problems(study: "GrpoStudy | PrmStudy", folder: Path, count: int) -> None:
    """Write `count` training problems for each seed, and those that all seeds are measured by.

    Raises:
        ValueError: the difficulty has too few problems.
    """
    for seed in study.seeds:
        drawn = generate(count, "train", seed * DRAWS + _PROBLEMS, study.difficulty)
        write_records(folder / f"problems-{seed}.jsonl", drawn)
    draws: dict[Split, tuple[int, int]] = {
        "validation": (study.validation_problems, 0),
        "test": (study.test_problems, study.test_seed),
    }
    for split, (number, seed) in draws.items():
        write_records(folder / f"{split}.jsonl", generate(number, split, seed, study.measured))


def start_costs(seeds: Iterable[int]) -> dict[str, float]:
    """Names of the starts, each at the same cost."""
    return {f"{START}-{seed}": 1.0 for seed in seeds}


def read_results(
    folder: Path, seeds: Iterable[int], runs: Iterable[ArmRun]
) -> tuple[dict[int, dict[str, Any]], dict[tuple[str, int], dict[str, Any]]]:
    """What the starts left, by seed, and the arms' runs, by arm and seed."""
    return (
        {seed: read_result(folder, f"{START}-{seed}") for seed in seeds},
        {(run.arm, run.seed): read_result(folder, run.name) for run in runs},
    )


def run_anew(
    folder: Path,
    name: str,
    seeds: Iterable[int],
    runs: Iterable[ArmRun],
    *,
    start: Callable[[int], dict[str, Any]],
    arm: Callable[[ArmRun], dict[str, Any]],
) -> dict[str, Any]:
    """The result of the start or the arm that is called `name`, made without what an earlier try left.

    Raises:
        ValueError: there is no such run.
    """
    starts = {f"{START}-{seed}": seed for seed in seeds}
    run = next((run for run in runs if run.name == name), None)
    if run is None and name not in starts:
        raise ValueError(f"no run {name!r} in this study")
    shutil.rmtree(folder / name, ignore_errors=True)
    return arm(run) if run else start(starts[name])
