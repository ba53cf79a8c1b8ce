"""What quantizing did to a process reward model: both score the steps of the same held-out traces."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.data.records import Record
from kit.package.quantize.traces import MIN_HELD_OUT
from kit.quiet import quiet_deepspeed
from submission.engines.base import EngineError
from submission.prm.scorer import CheckpointScorer


@dataclass(frozen=True, slots=True)
class PrmFigures:
    """The quantized model's step scores beside the unquantized one's."""

    steps: int
    mean_difference: float
    """Mean |before - after| of a step's probability to be right."""
    largest_difference: float
    same_side: float
    """Share of steps that both hold right, or both wrong (a score of 0.5 or more is right)."""

    @property
    def loss(self) -> float:
        """The mean difference: 0.02 is two hundredths of a probability."""
        return self.mean_difference


def compare_scores(before: Sequence[float], after: Sequence[float]) -> PrmFigures:
    """Figures of two lists of step scores in [0, 1].

    Raises:
        ValueError: there is nothing to compare, or a score is not a number.
    """
    if len(before) < MIN_HELD_OUT:
        raise ValueError(f"the held-out traces have {len(before)} steps, at least {MIN_HELD_OUT} are needed")
    for which, scores in (("unquantized", before), ("quantized", after)):
        if not all(map(math.isfinite, scores)):
            raise ValueError(f"the {which} process reward model gives scores that are not numbers")
    gaps = [abs(old - new) for old, new in zip(before, after, strict=True)]
    sides = [(old >= 0.5) == (new >= 0.5) for old, new in zip(before, after, strict=True)]
    return PrmFigures(
        steps=len(gaps),
        mean_difference=sum(gaps) / len(gaps),
        largest_difference=max(gaps),
        same_side=sum(sides) / len(sides),
    )


def score_all(scorer: CheckpointScorer, records: Sequence[Record]) -> list[float]:
    """Start a scorer, score every step of every trace, and close it; the scores one after another.

    Raises:
        ValueError: the scorer's engine cannot serve the model.
    """

    async def work() -> list[float]:
        try:
            await scorer.start()
            return [
                score
                for record in records
                for score in (await scorer.score_steps(record.problem, [record.completion]))[0]
            ]
        finally:
            await scorer.close()

    try:
        return asyncio.run(work())
    except EngineError as error:
        raise ValueError(f"process reward model {scorer.folder} cannot be served: {error}") from error


def transformers_scores(folder: Path, records: Sequence[Record]) -> list[float]:
    """`score_all` by transformers."""
    quiet_deepspeed()
    from submission.prm.transformers_scorer import TransformersScorer

    return score_all(TransformersScorer(folder), records)
