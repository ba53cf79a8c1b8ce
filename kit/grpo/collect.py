"""A step's roll-outs: prompts from the stream, completions, rewards, and other prompts for groups that teach
nothing (dynamic sampling; Yu et al. 2025, DAPO, section 3.2)."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from kit.data.tasks import Task
from kit.grpo.curriculum import Pick, sample_seed, stream
from kit.grpo.recipe import GrpoRecipe
from kit.grpo.rollout import Completion, Failure, Request, Sampler
from kit.grpo.table import Group, Rollouts
from kit.losses.advantages import zero_variance
from kit.rewards.judge import Judge, Sample, Scored
from kit.training.ranks import Ranks
from submission.answers import Gold, parse_gold
from submission.engines.base import Sampling

PassRate = Callable[[int], float | None]


@dataclass
class Spent:
    """Seconds of a collection, by what they went into."""

    sampling: float = 0.0
    rewards: float = 0.0


@dataclass
class Collector:
    """Draws and scores groups.

    Args:
        tasks: the training prompts.
        sampler: holds the weights to draw from.
        judge: on rank 0; the other ranks are told. None there.
        ranks: those that call `collect` together.
    """

    recipe: GrpoRecipe
    tasks: Sequence[Task]
    sampler: Sampler
    judge: Judge | None
    ranks: Ranks
    golds: list[Gold] = field(init=False)

    def __post_init__(self) -> None:
        self.golds = [parse_gold(task.record.answer) for task in self.tasks]

    def collect(self, position: int, pass_rate: PassRate) -> tuple[Rollouts, Spent]:
        """Groups of `batch_size` prompts, from stream position `position` on.

        Groups without signal are replaced by the prompts that follow, `refill_rounds` times at most; what is
        still missing then is filled up with the first of those, so a step always has its size.

        Raises:
            ValueError: more samples are lost than `rollout.max_failed_share`.
        """
        batch, rounds = self.recipe.batch, 0
        picks = stream(len(self.tasks), position, batch.seed, self.recipe.curriculum.revisit, pass_rate)
        kept: list[Group] = []
        idle: list[Group] = []
        rates: dict[int, float] = {}
        spent = Spent()
        while True:
            wanted = list(islice(picks, batch.batch_size - len(kept)))
            position = wanted[-1].position + 1
            groups = self._groups(wanted, spent)
            numbers = [index for index, group in enumerate(groups) for _ in group.scored]
            rewards = [scored.total for group in groups for scored in group.scored]
            dull = zero_variance(rewards, numbers)
            for index, group in enumerate(groups):
                (idle if index in dull else kept).append(group)
                if group.pass_rate is not None:
                    rates[group.pick.prompt] = group.pass_rate
            self._check([*kept, *idle])
            if len(kept) >= batch.batch_size or rounds >= self.recipe.rollout.refill_rounds:
                break
            rounds += 1
        fill = batch.batch_size - len(kept)
        reasons = Counter(reason for group in [*kept, *idle] for reason in _reasons(group))
        replaced = len(idle) - fill
        return Rollouts([*kept, *idle[:fill]], position, rates, rounds, replaced, dict(reasons)), spent

    def evaluate(self, tasks: Sequence[Task], temperature: float) -> list[Scored]:
        """One completion of each of other tasks."""
        rollout = self.recipe.rollout
        sampling = Sampling(temperature=temperature, max_tokens=rollout.max_completion_tokens)
        requests = [Request(task.prompt, sample_seed(-1, index, 0)) for index, task in enumerate(tasks)]
        drawn = self.sampler.sample(requests, sampling)
        samples = [
            (task, parse_gold(task.record.answer), completion, index)
            for index, (task, completion) in enumerate(zip(tasks, drawn, strict=True))
        ]
        return self._score(samples)

    def _groups(self, picks: Sequence[Pick], spent: Spent) -> list[Group]:
        size, rollout = self.recipe.batch.group_size, self.recipe.rollout
        requests = [
            Request(self.tasks[pick.prompt].prompt, sample_seed(self.recipe.seed, pick.position, attempt))
            for pick in picks
            for attempt in range(size)
        ]
        sampling = Sampling(
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            min_p=rollout.min_p,
            max_tokens=rollout.max_completion_tokens,
        )
        began = time.monotonic()
        drawn = self.sampler.sample(requests, sampling)
        sampled = time.monotonic()
        owners = [pick.prompt for pick in picks for _ in range(size)]
        scored = self._score(
            [
                (self.tasks[prompt], self.golds[prompt], completion, index // size)
                for index, (prompt, completion) in enumerate(zip(owners, drawn, strict=True))
            ]
        )
        spent.sampling += sampled - began
        spent.rewards += time.monotonic() - sampled
        parts = [slice(begin, begin + size) for begin in range(0, len(drawn), size)]
        return [Group(pick, drawn[part], scored[part]) for pick, part in zip(picks, parts, strict=True)]

    def _score(self, items: Sequence[tuple[Task, Gold, Completion | Failure, int]]) -> list[Scored]:
        """Rewards on rank 0, told to all; a lost sample's is missing."""
        return _loads(self.ranks.share(self.ranks.together(lambda: self._judged(items))))

    def _judged(self, items: Sequence[tuple[Task, Gold, Completion | Failure, int]]) -> str:
        if not self.ranks.main:
            return ""
        assert self.judge is not None, "rank 0 has the judge"
        places, samples = [], []
        for place, (task, gold, completion, group) in enumerate(items):
            if isinstance(completion, Completion):
                places.append(place)
                # What the template opened (`<think>`) is part of what the model said.
                said = Sample(task.record.problem, gold, _opened(completion, task.opening), group)
                samples.append(said)
        found = [
            Scored(math.nan, reason=f"sample lost: {item[2].reason}")
            if isinstance(item[2], Failure)
            else Scored(math.nan)
            for item in items
        ]
        for place, scored in zip(places, self.judge.score(samples), strict=True):
            found[place] = scored
        return json.dumps([[one.total, one.parts, one.correct, one.reason] for one in found])

    def _check(self, groups: Sequence[Group]) -> None:
        lost = sum(math.isnan(scored.total) for group in groups for scored in group.scored)
        count = sum(len(group.scored) for group in groups)
        if lost > self.recipe.rollout.max_failed_share * count:
            reasons = Counter(reason for group in groups for reason in _reasons(group))
            told = "; ".join(f"{reason[:120]} ({number})" for reason, number in reasons.most_common(3))
            raise ValueError(
                f"{lost} of {count} samples of a step have no reward, more than rollout.max_failed_share="
                f"{self.recipe.rollout.max_failed_share}: {told}"
            )


def _reasons(group: Group) -> list[str]:
    return [scored.reason for scored in group.scored if math.isnan(scored.total)]


def _opened(completion: Completion, opening: str) -> Completion:
    return replace(completion, text=opening + completion.text)


def _loads(text: str) -> list[Scored]:
    return [Scored(total, parts, correct, reason) for total, parts, correct, reason in json.loads(text)]
