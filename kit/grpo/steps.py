"""One step of GRPO: give the sampler the weights, draw and score, train; and evaluation on held-out problems.

A step follows from its number, the weights and the tables of the steps before it. Its completions stand in a
table before the first update, so a run that is killed while it trains goes on with the very same ones; killed
while it draws, it draws again, from the same seeds.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kit.data.tasks import Task
from kit.grpo.batch import Member, advantages_of, cut, members_of, told_of
from kit.grpo.collect import Collector, Spent
from kit.grpo.objective import PolicyObjective
from kit.grpo.recipe import GrpoRecipe
from kit.grpo.reference import Reference
from kit.grpo.rollout import SyncError
from kit.grpo.rows import PolicyRow
from kit.grpo.scoring import with_scores
from kit.grpo.table import Rollouts, read_pass_rates, read_table, table_path, write_table
from kit.training.attention import can_share
from kit.training.engines.base import TrainEngine
from kit.training.ranks import Ranks
from kit.training.steps import StepResult, run_step
from submission.engines.base import EngineError

if TYPE_CHECKING:
    import torch

PATIENCE = 60.0
"""Seconds for a new file to be seen from other nodes."""


@dataclass
class GrpoSteps:
    """See `kit.training.loop.Steps`.

    Args:
        weights: gives the model's weights, whole; collective.
        collector: None on ranks that take no part in drawing (the sampler runs on rank 0 alone).
        tasks, held_out: training and evaluation prompts.
        run: digest of the run's identity.
        reference: the model that the policy is kept close to; None with kl_coef 0.
    """

    recipe: GrpoRecipe
    engine: TrainEngine
    objective: PolicyObjective
    ranks: Ranks
    weights: "Callable[[], Iterator[tuple[str, torch.Tensor]]]"
    collector: Collector | None
    tasks: Sequence[Task]
    held_out: Sequence[Task]
    vocabulary: int
    run: str
    reference: Reference | None = None

    metric: str = "accuracy"
    lower_is_better: bool = False
    _rates: dict[int, float] = field(default_factory=dict)
    _position: int = 0
    _known: int = -1
    """Steps whose tables `_rates` and `_position` hold; -1 before the first."""
    _given: int = -1
    """Updates that the sampler's weights have seen."""

    @property
    def total(self) -> int:
        """Batches of roll-outs."""
        return self.recipe.batch.num_episodes

    @property
    def evaluates(self) -> bool:
        """Whether there are held-out problems."""
        return bool(self.held_out)

    @property
    def folder(self) -> Path:
        """Of the tables."""
        return self.recipe.out / "rollouts"

    def step(self, step: int, lr: float) -> StepResult:
        """Draw, score, train."""
        began = time.monotonic()
        timings = dict.fromkeys(("sync_seconds", "sampling_seconds", "reward_seconds", "score_seconds"), 0.0)
        if self._known < step:
            self.ranks.together(lambda: self._remember(step))
        rollouts = self._read(step)
        if rollouts is None or self._draws_ahead(step):
            self._sync(timings)
        if rollouts is None:
            self._draw(step, timings)
            rollouts = self._read(step, patience=PATIENCE)
            if rollouts is None:
                raise ValueError(
                    f"{table_path(self.folder, step)} was written by rank 0, but not all ranks see it: `out` "
                    "must lie on a file system that all nodes share"
                )
        self._note(step, rollouts)
        ahead = self._draw_ahead(step) if self._draws_ahead(step) else None
        result = self._train(step, rollouts, lr, timings)
        if self.recipe.rollout.overlap:
            waiting = time.monotonic()
            # Before the checkpoint: a run that goes on from it finds the table that it was on its way to.
            self._guarded(lambda: ahead.result() if ahead is not None else None)
            timings["waiting_seconds"] = time.monotonic() - waiting
        timings["other_seconds"] = time.monotonic() - began - sum(timings.values())
        samples = self.recipe.batch.batch_size * self.recipe.batch.group_size
        timings["completions_per_second"] = samples / (time.monotonic() - began)
        return replace(result, timings=timings)

    def evaluate(self) -> dict[str, float]:
        """Share of held-out problems that one completion each solves: at the run's temperature, greedy.

        A sample that was lost is not right, and counted.
        """
        timings = {"sync_seconds": 0.0}
        self._sync(timings)
        temperature = self.recipe.rollout.temperature

        def work() -> str:
            if self.collector is None:
                return ""
            greedy = self.collector.evaluate(self.held_out, 0.0)
            sampled = self.collector.evaluate(self.held_out, temperature)
            right = [sum(bool(one.correct) for one in scored) for scored in (sampled, greedy)]
            lost = sum(one.correct is None for one in (*sampled, *greedy))
            return " ".join(map(str, (*right, lost)))

        sampled, greedy, lost = map(int, self.ranks.share(self._guarded(work)).split())
        count = len(self.held_out)
        return {"accuracy": sampled / count, "greedy_accuracy": greedy / count, "samples_lost": float(lost)}

    @property
    def _shares(self) -> bool:
        """Whether a group's prompt goes through the model once."""
        return self.recipe.batch.share_prompts and can_share(self.engine.module)

    def _draws_ahead(self, step: int) -> bool:
        """Whether the next step's completions are drawn during this one."""
        return self.recipe.rollout.overlap and step + 1 < self.total

    def _draw_ahead(self, step: int) -> Future[None]:
        """Begin to draw the next step's completions, in a thread, in which nothing is collective."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        try:
            return pool.submit(self._draw_beside, step + 1)
        finally:
            pool.shutdown(wait=False)

    def _draw_beside(self, step: int) -> None:
        if self.collector is not None and read_table(table_path(self.folder, step), self.run) is None:
            self._collect(step, self.collector)

    def _remember(self, step: int) -> None:
        """What the prompt stream and the curriculum know after the steps before this one."""
        self._rates, self._position = read_pass_rates(self.folder, step, self.run)
        self._known = step

    def _note(self, step: int, rollouts: Rollouts) -> None:
        if self._known == step:
            self._rates |= rollouts.rates
            self._position = rollouts.next_position
            self._known = step + 1

    def _read(self, step: int, patience: float = 0.0) -> Rollouts | None:
        """The step's table; None on all ranks unless all see it within `patience` seconds."""
        path, until = table_path(self.folder, step), time.monotonic() + patience
        found = read_table(path, self.run)
        while found is None and time.monotonic() < until:
            time.sleep(0.5)
            found = read_table(path, self.run)
        missing = self.ranks.most(float(found is None))
        return None if missing else found

    def _sync(self, timings: dict[str, float]) -> None:
        """Give the sampler the weights, where they have changed since."""
        if self._given == self.engine.updates:
            return
        began = time.monotonic()

        def work() -> None:
            weights = self.weights()
            try:
                if self.collector is not None:
                    self.collector.sampler.sync(weights)
            finally:
                for _ in weights:  # gathers are collective: whoever does not send, or no more, looks on
                    pass

        self._guarded(work)
        self._given = self.engine.updates
        timings["sync_seconds"] += time.monotonic() - began

    def _draw(self, step: int, timings: dict[str, float]) -> None:
        """Collect the step's roll-outs and write their table. Collective."""
        collector = self.collector
        spent = self._guarded(lambda: self._collect(step, collector) if collector is not None else Spent())
        timings["sampling_seconds"] += spent.sampling
        timings["reward_seconds"] += spent.rewards

    def _collect(self, step: int, collector: Collector) -> Spent:
        rollouts, spent = collector.collect(self._position, self._rates.get)
        if self.ranks.main:
            records = [self.tasks[group.pick.prompt].record for group in rollouts.groups]
            problems = [(record.problem, record.answer) for record in records]
            path = table_path(self.folder, step)
            try:
                write_table(path, rollouts, self.run, problems, advantages_of(rollouts, self.recipe))
            except OSError as error:
                raise ValueError(
                    f"the completions of step {step + 1} were not written to {path}: {error}. The "
                    "checkpoints stand: make room, and start again"
                ) from error
        return spent

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """On all ranks together: a sampler that fails on one must not leave the others waiting."""

        def guarded() -> Any:
            try:
                return work()
            except (EngineError, SyncError) as error:
                raise ValueError(str(error)) from error

        return self.ranks.together(guarded)

    def _train(self, step: int, rollouts: Rollouts, lr: float, timings: dict[str, float]) -> StepResult:
        batch = self.recipe.batch
        members = members_of(rollouts, self.tasks, self.recipe)
        began = time.monotonic()
        passes = self._scored(members, step)
        timings["score_seconds"] += time.monotonic() - began
        results: list[StepResult] = []
        began = time.monotonic()
        for epoch in range(batch.epochs):
            results += [
                run_step(self.engine, self.objective, rows, batch, self.ranks, lr, share=self._shares)
                for rows in passes[epoch]
                if rows
            ]
        timings["train_seconds"] = time.monotonic() - began
        told = told_of(rollouts, members) | {"updates": len(results)}
        if not results:
            # No signal in any group: said by the counts, and no loss is made up for it.
            return StepResult(0.0, {}, told=told, shown=_SHOWN)
        return _combined(results, told)

    def _scored(self, members: Sequence[Member], step: int) -> list[list[list[PolicyRow]]]:
        """The rows of every pass and optimizer step, with the log-probabilities that their loss needs."""
        recipe = self.recipe
        passes = [cut(members, recipe, step, epoch) for epoch in range(recipe.batch.epochs)]

        def scored(
            parts: list[list[PolicyRow]], module: Any, field: Literal["old", "reference"]
        ) -> list[list[PolicyRow]]:
            common: dict[str, Any] = {
                "temperature": recipe.rollout.temperature,
                "vocabulary": self.vocabulary,
                "batch": recipe.batch,
                "ranks": self.ranks,
                "share": self._shares,
            }
            return [with_scores(rows, module, field, **common) if rows else [] for rows in parts]

        first = passes[0]
        if recipe.rescored:
            first = scored(first, self.engine.module, "old")
        if self.reference is not None:
            with self.reference.module(step) as module:
                first = scored(first, module, "reference")
        known = {row.source: row for rows in first for row in rows}
        return [
            [
                [
                    replace(row, old=known[row.source].old, reference=known[row.source].reference)
                    for row in rows
                ]
                for rows in parts
            ]
            for parts in passes
        ]


_SHOWN = ("reward", "accuracy", "completion_tokens", "groups_without_signal")


def _combined(results: Sequence[StepResult], told: dict[str, float | int]) -> StepResult:
    """A step's updates as one result: tokens add up, the rest are means over updates."""
    count = len(results)
    names = results[0].others
    return StepResult(
        loss=math.fsum(result.loss for result in results) / count,
        others={name: math.fsum(result.others[name] for result in results) / count for name in names},
        tokens=sum(result.tokens for result in results),
        trained=sum(result.trained for result in results),
        # Not finite if one of them is not.
        grad_norm=sum(result.grad_norm for result in results) / count,
        told=told,
        shown=(*_SHOWN, *(name for name in ("entropy", "kl") if name in names)),
    )
