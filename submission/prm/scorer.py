"""What scores the steps of candidate solutions, whichever engine runs the model."""

import asyncio
import itertools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from submission.engines.base import EngineError
from submission.offline import go_offline
from submission.prm.encoding import StepEncoder, scored_context
from submission.prm.heads import PrmConfig, read_prm, score_of
from submission.prm.layout import Layout, Long
from submission.steps import split_steps, write_up


class Scorer(Protocol):
    """Scores candidates of one problem."""

    async def start(self) -> None:
        """Load whatever is needed; raises EngineError."""

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:
        """Probability that each step is right, of each completion.

        NaN where the model's output is not finite; an empty list where there is nothing to score. A
        completion's steps are those of `split_steps(write_up(completion))`.
        """

    async def close(self) -> None:
        """Free everything; idempotent."""


class CancelledError(RuntimeError):
    """Nobody waits for these scores any more."""


class CheckpointScorer(ABC):
    """What every scorer of a checkpoint's folder does around its engine; see `Scorer` for the methods.

    Args:
        folder: local files: config, safetensors, tokenizer with a chat template, `prm.json` if need be.
        long: what becomes of solutions beyond the context.
    """

    def __init__(self, folder: Path, long: Long = "windows") -> None:
        self.folder = Path(folder)
        self._long: Long = long
        self._form: PrmConfig | None = None
        self._encoder: StepEncoder | None = None
        self._max_context = 0
        # One question at a time: a second one would only slow the first.
        self._lock = threading.Lock()

    @property
    def form(self) -> PrmConfig:
        """How the checkpoint scores; known once started."""
        assert self._form is not None, "start() first"
        return self._form

    async def start(self) -> None:
        """Load the weights in a thread."""
        try:
            await asyncio.to_thread(self._start)
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"PRM {self.folder} cannot be loaded: {error}") from error

    def _start(self) -> None:
        go_offline()
        self._form = read_prm(self.folder)
        self._encoder = StepEncoder(self.folder, self._form)
        self._max_context = scored_context(self.folder, self._form)
        self._load(self._form)

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:
        """Probability of each step of each completion, off the event loop; a time-out ends the work."""
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self.step_scores_many, problem, completions, stop)
        finally:
            stop.set()

    def step_scores(self, problem: str, completion: str) -> list[float]:
        """`step_scores_many` of one completion."""
        return self.step_scores_many(problem, [completion])[0]

    def step_scores_many(
        self, problem: str, completions: Sequence[str], stop: threading.Event | None = None
    ) -> list[list[float]]:
        """Probability that each step is right, of each completion; no step, no score.

        Args:
            problem: as the contest states it.
            completions: candidates; of a reasoning model's, the write-up is scored.
            stop: once set, the work ends with CancelledError.

        Raises:
            EngineError: the engine is gone.
        """
        return self.scores_of_steps(problem, [split_steps(write_up(text)) for text in completions], stop)

    def scores_of_steps(
        self, problem: str, solutions: Sequence[Sequence[str]], stop: threading.Event | None = None
    ) -> list[list[float]]:
        """`step_scores_many` of solutions that are cut into steps already: one score a given step.

        With `long` = "last" a solution beyond the context has the scores of its last steps only.
        """
        stop = stop or threading.Event()
        layouts = self._layouts(problem, solutions)
        with self._lock:
            if stop.is_set():
                raise CancelledError("the scores are not wanted any more")
            odds = self._log_odds([layout for found in layouts for layout in found], self.form, stop)
        return by_candidate(layouts, odds, self.form)

    def sequences(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[Layout]:
        """What the model would be given for these solutions, all of them after one another."""
        return [layout for found in self._layouts(problem, solutions) for layout in found]

    def _layouts(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[list[Layout]]:
        assert self._encoder is not None, "start() first"
        prompt = self._encoder.prompt(problem)
        return [self._encoder.layouts(prompt, steps, self._max_context, self._long) for steps in solutions]

    @abstractmethod
    async def close(self) -> None:
        """Free everything; idempotent."""

    @abstractmethod
    def _load(self, form: PrmConfig) -> None:
        """Bring the model up; may raise OSError, ValueError or RuntimeError."""

    @abstractmethod
    def _log_odds(
        self, layouts: Sequence[Layout], form: PrmConfig, stop: threading.Event
    ) -> list[list[float]]:
        """Of each scored step of each layout; for `logprob` the sum over the step's own tokens."""


def log_odds(logits: Sequence[float], positive: int) -> float:
    """ln p / (1 - p) of a label under softmax; a single logit is that already. NaN where one is not finite.

    Taken from the logits, since p rounds to 1 long before the odds are endless.
    """
    if not all(map(math.isfinite, logits)):
        return math.nan
    if len(logits) == 1:
        return logits[0]
    others = [value for label, value in enumerate(logits) if label != positive]
    top = max(others)
    return logits[positive] - top - math.log(math.fsum(math.exp(value - top) for value in others))


def by_candidate(
    layouts: Sequence[Sequence[Layout]], odds: Sequence[Sequence[float]], form: PrmConfig
) -> list[list[float]]:
    """Scores of each candidate's steps.

    Args:
        layouts: each candidate's sequences.
        odds: log-odds of the scored steps of each sequence, all candidates' after one another.
        form: span, scale and bias.
    """
    rows: Iterator[Sequence[float]] = iter(odds)
    scores = []
    for found in layouts:
        values = [value for _ in found for value in next(rows)]
        if form.span == "prefix":
            values = list(itertools.accumulate(values))
        scores.append([score_of(value, form) for value in values])
    return scores
