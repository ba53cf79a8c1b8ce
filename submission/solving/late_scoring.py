"""Step scores after a problem's sampling, where process reward model and solver share a GPU by turns."""

import math
from collections.abc import Callable, Sequence

from submission.prm.turns import Turn, Turns
from submission.solving.sample import Sample


class LateScoring:
    """The scores of one problem's samples, all at once when sampling is over; see `Scoring`.

    Args:
        turns: who has the GPU.
        problem: as the contest states it.
        undecided: whether scores of these samples could decide anything; else no turn is worth its time.
    """

    def __init__(self, turns: Turns, problem: str, undecided: Callable[[Sequence[Sample]], bool]) -> None:
        self._turns = turns
        self._problem = problem
        self._undecided = undecided
        self._samples: list[Sample] = []
        self.turn: Turn | None = None
        """What came of it; None where nothing was to be decided."""

    def add(self, sample: Sample) -> None:
        """A sample has ended."""
        if sample.answer is not None:
            self._samples.append(sample)

    async def finish(self, seconds: float) -> None:
        """Score, if it is worth it and `seconds` are enough; only once nothing is asked of the engine."""
        if len({sample.answer for sample in self._samples}) < 2 or not self._undecided(self._samples):
            return
        texts = [sample.text for sample in self._samples]
        self.turn = await self._turns.score(self._problem, texts, seconds)
        if self.turn.scores is None:
            return
        for sample, steps in zip(self._samples, self.turn.scores, strict=True):
            # A NaN from a broken model must not decide anything, nor reach the journal.
            sample.steps = tuple(steps) if all(map(math.isfinite, steps)) else ()
