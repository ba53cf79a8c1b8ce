"""Small models, step labels and recipes for the tests of process reward models."""

from pathlib import Path
from random import Random
from typing import Any

from kit.data.labelled import LabelledSolution, write_labelled
from kit.prm.recipe import PrmRecipe
from tests.tiny import make_tiny_checkpoint


def step_records(count: int = 60, seed: int = 0) -> list[LabelledSolution]:
    """Sums of which some steps are wrong; those after the first wrong one have labels, too."""
    random = Random(seed)
    records = []
    for number in range(count):
        steps, labels = [], []
        for _ in range(random.randint(1, 4)):
            a, b = random.randint(1, 9), random.randint(1, 9)
            right = random.random() < 0.7
            steps.append(f"{a}+{b}={a + b if right else a + b + random.randint(1, 3)}")
            labels.append(float(right))
        records.append(
            LabelledSolution(problem=f"Add up, number {number}.", steps=tuple(steps), labels=tuple(labels))
        )
    return records


def prm_recipe(folder: Path, **sections: dict[str, Any]) -> PrmRecipe:
    """A run of 12 steps of 6 solutions on a tiny model, in a second; sections are merged over it."""
    model = folder / "start"
    if not model.exists():
        make_tiny_checkpoint(model, architecture="qwen2", hidden=64, heads=2, layers=2, seed=1)
    data = folder / "steps.jsonl"
    if not data.exists():
        write_labelled(data, step_records())
    base: dict[str, dict[str, Any]] = {
        "model": {"path": str(model), "dtype": "float32", "gradient_checkpointing": False},
        "batch": {"batch_size": 6, "max_length": 128, "epochs": 10.0, "max_steps": 12},
        "optimizer": {"lr": 1e-3},
        "parallel": {"engine": "torch", "timeout": 200.0},
        "checkpoint": {"every": 1},
        "evaluation": {"every": 5},
        "data": {"path": str(data), "validation_share": 0.2},
        "logging": {"live": "never"},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return PrmRecipe.parse({"out": str(folder / "run"), **base}, "the test")


def train(recipe: dict[str, Any]) -> int:
    """The whole phase on this rank."""
    from kit.prm.phase import prm

    return prm(PrmRecipe.parse(recipe, "the test")).steps
