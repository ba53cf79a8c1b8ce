"""Small models, rows and recipes for the tests of training."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from kit.data.records import Record, write_records
from kit.distill.recipe import DistillRecipe
from kit.training.rows import TokenRow
from tests.tiny import make_tiny_checkpoint


def token_rows(count: int, seed: int = 0, longest: int = 40, vocabulary: int = 250) -> list[TokenRow]:
    """Random rows of 4 to `longest` tokens of which the later part is trained."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(random.integers(4, longest + 1))
        mask = np.zeros(length, np.uint8)
        mask[int(random.integers(1, length)) :] = 1
        rows.append(TokenRow(random.integers(3, vocabulary, length).astype(np.int32), mask, index))
    return rows


def sums(path: Path, count: int = 40, seed: int = 0) -> Path:
    """A trace file of sums of two numbers."""
    random = Random(seed)
    records = []
    for _ in range(count):
        a, b = random.randint(1, 999), random.randint(1, 99)
        steps = f"Step 1: {a} + {b} = {a + b}\n" * random.randint(1, 3)
        text = f"{steps}\\boxed{{{a + b}}}"
        records.append(Record(problem=f"What is {a} + {b}?", answer=str(a + b), completion=text))
    write_records(path, records)
    return path


def small_recipe(folder: Path, **sections: dict[str, Any]) -> DistillRecipe:
    """A run of 20 steps of 4 rows on a tiny student, in a second; sections are merged over it."""
    student = folder / "student"
    if not student.exists():
        make_tiny_checkpoint(student, hidden=32, heads=1, layers=2, seed=1)
    data = folder / "data.jsonl"
    if not data.exists():
        sums(data)
    base: dict[str, dict[str, Any]] = {
        "model": {"path": str(student), "dtype": "float32", "gradient_checkpointing": False},
        "batch": {"batch_size": 4, "max_length": 192, "epochs": 3.0, "max_steps": 20},
        "optimizer": {"lr": 1e-3},
        "parallel": {"engine": "torch", "timeout": 200.0},
        "checkpoint": {"every": 1},
        "evaluation": {"every": 7},
        "data": {"path": str(data), "validation_share": 0.1},
        "loss": {"alpha": 0.0},
        "logging": {"live": "never"},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return DistillRecipe.parse({"out": str(folder / "run"), **base}, "the test")


def exact_norms(model: Any) -> Any:
    """The model with norms in its own dtype: transformers' round to float32 in any case, and the gradient
    of a token that stands for several would be rounded once, not once for each.
    """
    from functools import partial

    from torch.nn.functional import rms_norm

    def forward(norm: Any, states: Any) -> Any:
        return rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)

    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = partial(forward, module)
    return model
