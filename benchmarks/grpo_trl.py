"""TRL's side of `benchmarks.grpo`: what it is given; its prompts, rewards and gradient held against ours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.grpo_sides import Measured, Settings, recipe_of, taken
from benchmarks.peers.process import open_peer

if TYPE_CHECKING:
    from kit.grpo.rollout import Completion

REWARD_GAP, GRADIENT_GAP = 1e-9, 1e-3
"""Differences that rounding explains: of a reward, and of the gradient's norm in float32, relative."""


def trl_rows(settings: Settings) -> list[dict[str, Any]]:
    """The problems as conversations, in the order in which our run takes them."""
    from kit.data.records import read_records

    records = list(read_records(Path(settings.data)))
    return [
        {"prompt": [{"role": "user", "content": record.problem}], "answer": record.answer}
        for record in map(records.__getitem__, taken(settings, len(records)))
    ]


def prompts_of(settings: Settings) -> list[list[int]]:
    """Token ids of the prompts that our run puts to the model, in order."""
    from kit.grpo.problems import load_problems
    from kit.grpo.recipe import GrpoRecipe

    recipe = GrpoRecipe.parse(recipe_of(settings, Path("unused")), "the benchmark")
    tasks = load_problems(recipe, Path(settings.model)).train
    return [list(tasks[pick].prompt) for pick in taken(settings, len(tasks))]


def end_of(settings: Settings) -> int:
    """The token that ends a whole completion."""
    from kit.training.chat import open_chat
    from kit.training.model import load_tokenizer

    return open_chat(load_tokenizer(Path(settings.model)), settings.model).end_id


def completion_of(made: Mapping[str, Any], end_id: int) -> "Completion":
    """A completion of TRL's, with its `text` and `ids`, as one of ours."""
    from kit.grpo.rollout import Completion

    ids = tuple(made["ids"])
    return Completion(
        ids=ids,
        logprobs=(math.nan,) * len(ids),
        mask=(1,) * len(ids),
        text=made["text"],
        finish="stop" if ids[-1] == end_id else "length",
    )


def our_rewards(settings: Settings, rewarded: Sequence[Mapping[str, Any]]) -> list[float]:
    """What our judge gives completions of TRL's.

    Args:
        rewarded: `text`, `ids` and `gold` of each.
    """
    from kit.rewards.judge import Judge, Sample
    from kit.rewards.recipe import RewardSection
    from submission.answers import parse_gold

    end_id = end_of(settings)
    samples = []
    for index, each in enumerate(rewarded):
        made = completion_of(each, end_id)
        samples.append(Sample("", parse_gold(each["gold"]), made, index // settings.group_size))
    with Judge(RewardSection(**settings.rewards), settings.max_tokens) as judge:
        return [scored.total for scored in judge.score(samples)]


def our_gradient_norm(settings: Settings, rewarded: Sequence[Mapping[str, Any]]) -> float:
    """2-norm of the gradient before clipping, at the weights that both sides start with.

    Args:
        rewarded: `text`, `ids` and `reward` of the step's completions, group by group.

    Returns:
        0 where no group has a signal.
    """
    import torch

    from kit.grpo.batch import cut, members_of
    from kit.grpo.curriculum import Pick
    from kit.grpo.objective import PolicyObjective
    from kit.grpo.problems import load_problems
    from kit.grpo.recipe import GrpoRecipe
    from kit.grpo.table import Group, Rollouts
    from kit.rewards.judge import Scored
    from kit.training.model import load_tokenizer, token_count
    from kit.training.ranks import Ranks
    from kit.training.start import start
    from kit.training.steps import run_step

    folder, end_id = Path(settings.model), end_of(settings)
    recipe = GrpoRecipe.parse(recipe_of(settings, Path("unused")), "the benchmark")
    tasks = load_problems(recipe, folder).train
    groups = []
    for position, prompt in enumerate(taken(settings, len(tasks))[: settings.batch_size]):
        members = rewarded[position * settings.group_size :][: settings.group_size]
        completions = [completion_of(each, end_id) for each in members]
        groups.append(
            Group(Pick(prompt, position), completions, [Scored(each["reward"]) for each in members])
        )
    (rows,) = cut(members_of(Rollouts(groups, 0), tasks, recipe), recipe, 0, 0)
    if not rows:
        return 0.0
    ranks = Ranks(0, 1, 0, torch.device("cpu"))
    engine = start(recipe, folder, ranks).engine
    vocabulary = token_count(load_tokenizer(folder))
    objective = PolicyObjective(recipe.policy, recipe.rollout.temperature, vocabulary)
    return run_step(engine, objective, rows, recipe.batch, ranks, settings.lr).grad_norm


def relative_gap(ours: float, theirs: float) -> float:
    """| theirs / ours - 1 |; 0 where both are 0, infinite where only ours is."""
    if ours == theirs:
        return 0.0
    return abs(theirs / ours - 1) if ours else math.inf


def train_trl(settings: Settings, peer: str, python: Path) -> tuple[Measured, dict[str, str]]:
    """TRL's trainer on the same problems in the same order; and the versions of its packages.

    Args:
        peer: completions of one forward pass of training, with `-continuous` for transformers' continuous
            batching.
        python: interpreter of TRL's environment.

    Raises:
        ValueError: TRL's side failed; the message has the end of what it printed.
    """
    size, _, how = peer.partition("-")
    given = asdict(settings) | {
        "rows": trl_rows(settings),
        "end_id": end_of(settings),
        "micro_rows": int(size),
        "continuous": how == "continuous",
    }
    threads = {"OMP_NUM_THREADS": str(settings.threads)}
    with open_peer(python, "grpo", given, threads) as side:
        told = side.ask({})
    asked = zip(prompts_of(settings), told["prompts"], strict=True)
    judged = zip(our_rewards(settings, told["rewarded"]), told["rewarded"], strict=True)
    first = told["rewarded"][: settings.samples]
    measured = Measured(
        **told["measured"],
        other_prompts=sum(one != other for one, other in asked),
        other_rewards=sum(abs(ours - each["reward"]) > REWARD_GAP for ours, each in judged),
        gradient_gap=relative_gap(our_gradient_norm(settings, first), told["gradient_norm"]),
    )
    return measured, side.versions
