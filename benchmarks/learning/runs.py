"""Runs of a study, each in a process and a folder of its own: what is done is kept, the rest is run.

A run leaves `result.json` in its folder, so that a study that was killed goes on where it stopped.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.shared import ROOT
from kit.training.loop import Outcome
from submission.files import write_text
from submission.recipes import Recipe

RESULT = "result.json"
SETTINGS = "settings.json"
Study = TypeVar("Study", bound=Recipe)


def begin(study: Recipe, folder: Path) -> bool:
    """Whether the study in `folder` is still to be prepared; `keep_settings` says that it was.

    Raises:
        ValueError: the folder holds a study with other settings.
    """
    path = folder / SETTINGS
    if not path.exists():
        return True
    if path.read_text(encoding="utf-8") != _text(study):
        raise ValueError(
            f"{folder} holds a study with other settings: name another folder with --folder, or remove it"
        )
    return False


def keep_settings(study: Recipe, folder: Path) -> None:
    """Last of what is prepared."""
    write_text(folder / SETTINGS, _text(study))


def load_settings(kind: type[Study], folder: Path) -> Study:
    """The settings that `folder` was made with."""
    path = folder / SETTINGS
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise ValueError(f"{folder} holds no study: it has no {SETTINGS}") from None
    return kind.parse(json.loads(text), str(path))


def run_waiting(
    command: str,
    costs: Mapping[str, float],
    folder: Path,
    jobs: int,
    say: Callable[[str], None],
    *,
    module: str = "benchmarks.learning",
    line: "Callable[[str, dict[str, Any]], str] | None" = None,
) -> None:
    """Every run that has no result yet, in the order of `costs`, `jobs` at a time.

    Args:
        command: of `python -m MODULE`; it is given the folder and the run's name.
        costs: by name, what each run takes in any one unit.
        say: is called with one line for each run that ended.
        line: makes it of the run's name and result; None tells the shares solved.

    Raises:
        ValueError: a run failed; the message names its log.
    """
    waiting = {name: cost for name, cost in costs.items() if not (folder / name / RESULT).exists()}
    started, done = time.monotonic(), 0.0
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_in_own_process, module, command, folder, name): name for name in waiting}
        try:
            for future in as_completed(futures):
                future.result()
                name = futures[future]
                done += waiting[name]
                left = (time.monotonic() - started) * (sum(waiting.values()) - done) / done
                told = (line or _line)(name, read_result(folder, name))
                say(f"{told}; about {left / 60:.0f} min left of these runs")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def read_result(folder: Path, name: str) -> dict[str, Any]:
    """What a run left."""
    result: dict[str, Any] = json.loads((folder / name / RESULT).read_text(encoding="utf-8"))
    return result


def write_result(folder: Path, name: str, result: Mapping[str, Any]) -> None:
    """Last of what a run does.

    Args:
        result: `steps`, `cpu_seconds`, and `greedy` and `sampled` by test problem; more as a study likes.
    """
    write_text(folder / name / RESULT, json.dumps(result) + "\n")


def check_finished(outcome: Outcome) -> None:
    """A run that a signal stopped has no result: it is done again.

    Raises:
        ValueError: the training did not come to its end.
    """
    if not outcome.finished:
        raise ValueError(f"stopped by {outcome.stopped} after {outcome.steps} of {outcome.total} steps")


def _text(study: Recipe) -> str:
    return study.model_dump_json(indent=1) + "\n"


def _line(name: str, result: dict[str, Any]) -> str:
    greedy, sampled = (sum(result[key]) / len(result[key]) for key in ("greedy", "sampled"))
    return (
        f"{name}: {result['steps']} steps, {result['cpu_seconds']:.0f} CPU-s, solved {greedy:.3f} greedy, "
        f"{sampled:.3f} sampled"
    )


def _in_own_process(module: str, command: str, folder: Path, name: str) -> None:
    """One thread for each run: that is the fastest for models of this size, and equal for all arms."""
    line = [sys.executable, "-m", module, command, str(folder), name]
    log = folder / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        ended = subprocess.run(
            line,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    if ended.returncode:
        raise ValueError(f"the run {name} failed with exit code {ended.returncode}; {log} says why")
