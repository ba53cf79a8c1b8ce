"""Whole runs of training as a user starts them, each a process of its own, and what they leave."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from kit.data.records import Record, write_records
from kit.training.recipe import TrainRecipe
from tests.tiny import make_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def long_sums(path: Path, count: int = 40) -> Path:
    """A trace file whose rows have 200 to 1500 tokens: attention then has many blocks to add up."""
    random = Random(0)
    records = []
    for _ in range(count):
        lines, total = [], random.randint(1, 9)
        first = total
        for step in range(random.randint(8, 60)):
            more = random.randint(1, 99)
            lines.append(f"Step {step}: {total} + {more} = {total + more}")
            total += more
        text = "\n".join([*lines, f"\\boxed{{{total}}}"])
        records.append(Record(problem=f"Start at {first}.", answer=str(total), completion=text))
    write_records(path, records)
    return path


def grouped_student(folder: Path) -> Path:
    """A tiny model with heads of 64 for the packed kernel."""
    return make_tiny_checkpoint(
        folder, architecture="qwen2", hidden=128, heads=2, head_dim=64, layers=3, seed=1
    )


def started(
    phase: str, recipe: TrainRecipe, *, gpu: bool = True, launched: bool = False
) -> "subprocess.Popen[bytes]":
    """Begin `python -m kit.train PHASE`; what it says goes to `log` beside the run's folder.

    Args:
        gpu: whether the process sees CUDA devices.
        launched: with the variables that torchrun sets for a run of one rank.
    """
    folder = recipe.out.parent
    path = folder / f"{recipe.out.name}.toml"
    path.write_text(_toml(recipe.model_dump(mode="json")))
    environment = {name: text for name, text in os.environ.items() if name not in RANK_VARIABLES}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if not gpu:
        environment |= {"CUDA_VISIBLE_DEVICES": ""}
    if launched:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        environment |= dict(zip(RANK_VARIABLES, ("0", "1", "0", "127.0.0.1", port), strict=True))
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "kit.train", phase, str(path)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def trained(
    phase: str, recipe: TrainRecipe, *, gpu: bool = True, launched: bool = False, timeout: float = 140.0
) -> list[dict[str, Any]]:
    """Train afresh to the end; the values of each step's line."""
    shutil.rmtree(recipe.out, ignore_errors=True)
    process = started(phase, recipe, gpu=gpu, launched=launched)
    try:
        code = process.wait(timeout=timeout)
    finally:
        process.kill()
        process.wait()
    assert code == 0, said(recipe)
    return steps_of(recipe.out)


def said(recipe: TrainRecipe) -> str:
    """The end of what the last process wrote."""
    return (recipe.out.parent / "log").read_text(errors="replace")[-3000:]


def steps_of(out: Path) -> list[dict[str, Any]]:
    """Values of the steps' lines, with the times beside them."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["values"] | {"time": line["time"]} for line in lines if line["kind"] == "train"]


def _toml(settings: Mapping[str, Any], prefix: str = "") -> str:
    """Dotted keys, each part quoted; what is None is left out."""
    lines = []
    for key, value in settings.items():
        name = prefix + json.dumps(key)
        if isinstance(value, Mapping):
            lines.append(_toml(value, f"{name}."))
        elif value is not None:
            lines.append(f"{name} = {json.dumps(value)}\n")
    return "".join(lines)
