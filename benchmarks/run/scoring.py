"""PRM scores of an unlimited run's samples that the contest had no reason to score, kept as they are made.

A contest scores only what can decide something: samples with an integer answer, from the second answer on.
PRM@k wants all of them, so the rest is scored after the contest, with the engine gone.
"""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.run.gathering import ENDED, Drawn
from benchmarks.run.playing import Finished
from submission.engines.base import EngineError
from submission.prm.making import make_scorer
from submission.prm.scorer import Scorer

Scores = Mapping[tuple[str, int], tuple[float, ...]]
"""By problem and attempt; a sample that cannot be scored has none."""
FILE = "scores.jsonl"
WHOLE_GPU = 0.9
"""Of its memory, for a scorer in vLLM that has a GPU to itself."""


def read_scores(path: Path) -> dict[tuple[str, int], tuple[float, ...]]:
    """Scores of a file; a line that was cut off is not there."""
    found: dict[tuple[str, int], tuple[float, ...]] = {}
    if not path.is_file():
        return found
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
            found[str(row["id"]), int(row["attempt"])] = tuple(float(step) for step in row["steps"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def missing(finished: Finished, known: Scores) -> dict[str, list[Drawn]]:
    """Whole samples without scores, by problem."""
    found = {
        name: [
            one
            for one in played.samples
            if one.line.finish in ENDED and not one.steps and (name, one.attempt) not in known
        ]
        for name, played in finished.contest.problems.items()
    }
    return {name: samples for name, samples in found.items() if samples}


def score_rest(finished: Finished, folder: Path, console: Console) -> Scores:
    """Score what has none; what is in the folder already is not scored again.

    Raises:
        ValueError: the PRM cannot be loaded.
    """
    path = folder / FILE
    known = read_scores(path)
    rest = missing(finished, known)
    settings = finished.setup.settings
    # Swaps, and the share that is taken by itself, are for engine and PRM side by side: the engine is gone.
    share = settings.prm.gpu_memory_utilization or WHOLE_GPU
    alone = settings.prm.model_copy(update={"swap": False, "gpu_memory_utilization": share})
    scorer = make_scorer(settings.model_copy(update={"prm": alone}), finished.setup.prm)
    if scorer is None or not rest:
        return known
    texts = {item.id: item.text for item in finished.job.problems.items}
    try:
        asyncio.run(_score(scorer, rest, texts, path, console))
    except EngineError as error:
        raise ValueError(str(error)) from error
    return read_scores(path)


async def _score(
    scorer: Scorer,
    rest: Mapping[str, Sequence[Drawn]],
    texts: Mapping[str, str],
    path: Path,
    console: Console,
) -> None:
    await scorer.start()
    try:
        with path.open("ab") as file:
            file.write(b"\n")  # whatever a killed process left of its last line ends here
            for name, samples in track(list(rest.items()), "PRM scores", console=console, transient=True):
                scores = await scorer.score_steps(texts[name], [one.line.text for one in samples])
                for one, steps in zip(samples, scores, strict=True):
                    usable = [round(step, 4) for step in steps] if all(map(math.isfinite, steps)) else []
                    line = {"id": name, "attempt": one.attempt, "steps": usable}
                    file.write(json.dumps(line).encode("ascii") + b"\n")
                file.flush()
    finally:
        await scorer.close()
