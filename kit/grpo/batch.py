"""From a step's groups to the rows of its optimizer steps: advantages, weights, what is left out. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kit.data.tasks import Task
from kit.grpo.recipe import GrpoRecipe
from kit.grpo.rollout import Completion
from kit.grpo.rows import PolicyRow, policy_row
from kit.grpo.table import Rollouts
from kit.losses.advantages import group_advantages, zero_variance
from kit.losses.token_weights import token_weights


@dataclass(frozen=True)
class Member:
    """One completion of the batch.

    Args:
        row: what would be trained on.
        length: trained tokens; 0 where the completion is left out of the loss.
        moves: whether it can move the weights at all.
    """

    row: PolicyRow
    length: int
    moves: bool


def advantages_of(rollouts: Rollouts, recipe: GrpoRecipe) -> list[float]:
    """Of every completion, group by group; 0 where its reward is missing."""
    rewards = [scored.total for group in rollouts.groups for scored in group.scored]
    numbers = [index for index, group in enumerate(rollouts.groups) for _ in group.scored]
    policy = recipe.policy
    return list(map(float, group_advantages(rewards, numbers, scale=policy.scale, eps=policy.eps)))


def members_of(rollouts: Rollouts, tasks: Sequence[Task], recipe: GrpoRecipe) -> list[Member]:
    """The completions that were drawn.

    With mask_cut_off, one that the limit cut has no loss. One whose advantage is 0 adds nothing to the
    gradient (unless there is a divergence from a reference), so it is never put through the model; it counts
    in the loss' normaliser all the same.
    """
    found: list[Member] = []
    advantages = iter(advantages_of(rollouts, recipe))
    for group in rollouts.groups:
        prompt = tasks[group.pick.prompt].prompt
        for completion, scored in zip(group.completions, group.scored, strict=True):
            advantage = next(advantages)
            if not isinstance(completion, Completion) or math.isnan(scored.total):
                continue
            row = policy_row(prompt, completion, len(found), advantage)
            masked = recipe.policy.mask_cut_off and completion.finish == "length"
            length = 0 if masked else int(row.mask.sum())
            moves = bool(length) and (advantage != 0 or recipe.policy.kl_coef > 0)
            found.append(Member(row, length, moves))
    return found


def cut(members: Sequence[Member], recipe: GrpoRecipe, step: int, epoch: int) -> list[list[PolicyRow]]:
    """The rows of each optimizer step of one pass over the batch, with their weights; some may be empty.

    Which completions go together is drawn anew for each pass, from seed, step and pass.
    """
    batch = recipe.batch
    order: Sequence[int] = range(len(members))
    if batch.minibatches > 1:
        random = np.random.Generator(np.random.Philox(key=[batch.seed, step * batch.epochs + epoch]))
        order = random.permutation(len(members)).tolist()
    total = sum(member.length for member in members)
    parts = np.array_split(np.array(order, np.int64), batch.minibatches)
    found = []
    for part in parts:
        chosen = [members[index] for index in part.tolist()]
        weights = token_weights(
            recipe.policy.kind,
            [member.length for member in chosen],
            batch_tokens=total / batch.minibatches,
            max_completion_tokens=recipe.rollout.max_completion_tokens,
        )
        found.append(
            [
                replace(member.row, weight=weight)
                for member, weight in zip(chosen, weights, strict=True)
                if member.moves
            ]
        )
    return found


def told_of(rollouts: Rollouts, members: Sequence[Member]) -> dict[str, float | int]:
    """What a step says of its roll-outs, beside the losses."""
    scored = [one for group in rollouts.groups for one in group.scored]
    there = [one for one in scored if not math.isnan(one.total)]
    drawn = [one for group in rollouts.groups for one in group.completions if isinstance(one, Completion)]
    names = sorted({name for one in there for name in one.parts})
    rewards = [one.total for one in scored]
    numbers = [index for index, group in enumerate(rollouts.groups) for _ in group.scored]
    lengths = [len(one.ids) for one in drawn] or [0]
    return {
        "reward": _mean([one.total for one in there]),
        **{f"reward/{name}": _mean([one.parts[name] for one in there]) for name in names},
        "accuracy": _mean([float(bool(one.correct)) for one in scored]),
        "completion_tokens": _mean(lengths),
        "completion_tokens_max": max(lengths),
        "cut_off_share": _mean([float(one.finish == "length") for one in drawn]),
        "groups": len(rollouts.groups),
        "groups_without_signal": len(zero_variance(rewards, numbers)),
        "group_std": _mean(_spreads(rollouts)),
        "groups_replaced": rollouts.replaced,
        "refill_rounds": rollouts.rounds,
        "samples_lost": len(scored) - len(there),
        "rows_moving": sum(member.moves for member in members),
    }


def _spreads(rollouts: Rollouts) -> list[float]:
    """Standard deviation of each group's rewards."""
    found = []
    for group in rollouts.groups:
        values = [one.total for one in group.scored if not math.isnan(one.total)]
        if len(values) > 1:
            found.append(float(np.std(values, ddof=1)))
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
