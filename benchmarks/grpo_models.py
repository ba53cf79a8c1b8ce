"""The models of `benchmarks.grpo`, and the problems that they are trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

from submission.files import write_text


def make_small(folder: Path, count: int, *, steps: int = 500) -> Path:
    """A model of 0.2 M parameters that has learnt sums for a while, and `count` problems to go on with.

    Kept in `folder`, and made anew where that was made otherwise. Returns the model's folder; the problems
    are in `folder`/problems.jsonl.

    Args:
        steps: of its fine-tuning: after 500 it solves about half of the problems.
    """
    from kit.data.records import write_records
    from kit.distill.phase import distill
    from kit.distill.recipe import DistillRecipe
    from kit.small import make_small_model
    from kit.worked import Difficulty, generate

    task = Difficulty(kinds=["sum"], min_operands=3, max_operands=5, largest=20, worded=0.3)
    sections: dict[str, Any] = {
        "out": str(folder / "run"),
        "model": {"path": str(folder / "init"), "dtype": "float32", "gradient_checkpointing": False},
        "data": {"path": str(folder / "train.jsonl")},
        "loss": {"alpha": 0.0},
        "batch": {
            "batch_size": 32,
            "max_length": 160,
            "micro_batch_tokens": 32 * 160,
            "packing": False,
            "epochs": 4.0,
            "max_steps": steps,
        },
        "optimizer": {"lr": 4e-3},
        "parallel": {"engine": "torch"},
        "checkpoint": {"every": 0},
        "logging": {"live": "never"},
    }
    made, said = folder / "made.json", json.dumps([task.model_dump(), sections], indent=1)
    if not made.exists() or made.read_text(encoding="utf-8") != said:
        shutil.rmtree(folder, ignore_errors=True)
        make_small_model(folder / "init", hidden=96, layers=2, heads=3, intermediate=192, seed=0)
        write_records(folder / "train.jsonl", generate(12_000, "train", 0, task))
        distill(DistillRecipe.parse(sections, "the benchmark"))
        write_text(made, said)
    write_records(folder / "problems.jsonl", generate(count, "validation", 0, task))
    return folder / "run" / "model"


def obtain_smollm2(folder: Path, count: int) -> Path:
    """SmolLM2-135M-Instruct, and `count` problems of two numbers, some of which it solves.

    Returns the model's folder; the problems are in `folder`/problems.jsonl.
    """
    from kit.data.records import write_records
    from kit.models import default_model
    from kit.worked import Difficulty, generate

    task = Difficulty(kinds=["sum"], min_operands=2, max_operands=2, largest=30, worded=1.0)
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "problems.jsonl", generate(count, "train", 0, task))
    return default_model().resolve()
