"""Recipes, completions and rows for the tests of GRPO, and how its runs are started."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kit.data.records import Record
from kit.data.tasks import Task
from kit.grpo.curriculum import Pick
from kit.grpo.recipe import GrpoRecipe
from kit.grpo.rollout import Completion, Failure
from kit.grpo.rows import PolicyRow
from kit.grpo.table import Group, Rollouts
from kit.rewards.judge import Scored
from tests.kit.training import workers
from tests.kit.training.made import sums, token_rows
from tests.tiny import make_tiny_checkpoint

# Before any test starts the server; all modules are imported by then.
workers._CONTEXT.set_forkserver_preload(["tests.kit.training.preload", "tests.kit.grpo.preload"])

REWARDS = "tests.kit.grpo.rewarding"
ENGINES: dict[str, dict[str, Any]] = {
    "torch": {"engine": "torch"},
    "zero2": {"engine": "deepspeed", "zero_stage": 2},
    "zero3": {"engine": "deepspeed", "zero_stage": 3},
}
KINDS = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo")


def rewarded(function: str = "letters") -> dict[str, Any]:
    """A rewards section with one of this package's functions alone."""
    return {"answer": 0.0, "functions": {f"{REWARDS}:{function}": 1.0}}


def grpo_recipe(folder: Path, **sections: dict[str, Any]) -> GrpoRecipe:
    """A run of 4 steps of 3 groups of 4 on a tiny random model; sections are merged over it."""
    student = folder / "student"
    if not student.exists():
        make_tiny_checkpoint(student, hidden=32, heads=1, layers=2, seed=1)
    data = folder / "data.jsonl"
    if not data.exists():
        sums(data)
    base: dict[str, dict[str, Any]] = {
        "model": {"path": str(student), "dtype": "float32", "gradient_checkpointing": False},
        "data": {"path": str(data), "system_prompt": ""},
        "batch": {"batch_size": 3, "group_size": 4, "num_episodes": 4, "max_length": 96},
        "rollout": {"sampler": "local", "max_completion_tokens": 8, "refill_rounds": 1},
        "policy": {"mask_cut_off": False},
        "rewards": rewarded(),
        "optimizer": {"lr": 1e-3, "schedule": "constant", "warmup_ratio": 0.0},
        "parallel": {"engine": "torch", "timeout": 200.0},
        "checkpoint": {"every": 1},
        "logging": {"live": "never"},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return GrpoRecipe.parse({"out": str(folder / "run"), **base}, "the test")


def train(recipe: dict[str, Any]) -> dict[str, Any]:
    """The whole phase on this rank."""
    from kit.grpo.phase import grpo

    outcome = grpo(GrpoRecipe.parse(recipe, "the test"))
    return {"steps": outcome.steps, "skipped": outcome.skipped, "evaluation": outcome.evaluation}


def completion(
    tokens: int = 3, text: str = "", finish: Literal["stop", "length"] = "stop", first: int = 5
) -> Completion:
    """One that the model wrote alone, with log-probabilities that nobody else has."""
    ids = tuple(range(first, first + tokens))
    return Completion(ids, tuple(-0.5 - token / 100 for token in ids), (1,) * tokens, text, finish)


def rollouts(*groups: Sequence[tuple[Completion | Failure, float]], **told: Any) -> Rollouts:
    """A step of groups given as (completion, reward); group g is prompt g, at position g."""
    made = []
    for number, group in enumerate(groups):
        scored = [
            Scored(
                reward,
                {} if isinstance(one, Failure) else {"answer": reward},
                None if math.isnan(reward) else reward > 0,
            )
            for one, reward in group
        ]
        made.append(Group(Pick(number, number), [one for one, _ in group], scored))
    return Rollouts(made, **({"next_position": len(groups)} | told))


def tasks(count: int, length: int = 2) -> list[Task]:
    """Prompts of `length` tokens whose gold answer is their number."""
    from array import array

    return [
        Task(Record(problem=f"Say {number}.", answer=str(number)), array("i", [3 + number] * length), 100, "")
        for number in range(count)
    ]


def policy_rows(count: int, seed: int = 0, longest: int = 40) -> list[PolicyRow]:
    """Random rows whose old, sampled and reference log-probabilities are nobody's."""
    random = np.random.default_rng(seed)
    rows = []
    for row in token_rows(count, seed, longest):
        trained = int(row.mask.sum())
        rows.append(
            PolicyRow(
                row.ids,
                row.mask,
                row.source,
                advantage=float(random.normal()),
                weight=float(random.uniform(0.01, 0.1)),
                old=random.normal(-5.5, 0.3, trained),
                sampled=random.normal(-5.5, 0.3, trained),
                reference=random.normal(-5.5, 0.3, trained),
            )
        )
    return rows


def grouped(rows: Sequence[PolicyRow], size: int) -> list[PolicyRow]:
    """The rows in groups of `size`: the completions of each behind its first row's prompt."""
    found = []
    for index, row in enumerate(rows):
        first = rows[index - index % size]
        prompt = first.ids[: int(first.mask.argmax())]
        own = int(row.mask.argmax())
        mask = np.concatenate([np.zeros(len(prompt), np.uint8), row.mask[own:]])
        found.append(replace(row, ids=np.concatenate([prompt, row.ids[own:]]), mask=mask))
    return found
