"""Recipes as files for jobs, what their runs leave, and who runs on a lab's nodes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.launch.attempts import History, newest_checkpoint
from kit.training.recipe import TrainRecipe
from tests.lab import Lab


def write_recipe(path: Path, recipe: TrainRecipe) -> Path:
    """The recipe as a TOML file."""

    def lines(section: dict[str, Any], above: str = "") -> list[str]:
        found = []
        for key, value in section.items():
            name = f"{above}{json.dumps(key)}"
            if isinstance(value, dict):
                found += lines(value, f"{name}.")
            elif value is not None:
                found.append(f"{name} = {json.dumps(value)}")
        return found

    path.write_text("\n".join(lines(recipe.model_dump(mode="json"))) + "\n")
    return path


def losses(out: Path) -> list[float]:
    """Of each step, in order."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in trained] == list(range(1, len(trained) + 1))
    return [row["values"]["loss"] for row in trained]


def weights(out: Path) -> bytes:
    """The exported model's file."""
    return (out / "model" / "model.safetensors").read_bytes()


def process_on(lab: Lab, node: str, module: str) -> str:
    """Id, on that node, of the first process there that runs `python -m module`."""
    found = re.search(
        rf"^ *(\d+) \S+ (?:-u )?-m {re.escape(module)}\b",
        lab.node("enter", int(node.removeprefix("node")), "ps", "-e", "-o", "pid,args"),
        re.MULTILINE,
    )
    assert found, f"no {module} on {node}"
    return found[1]


def kill_on(lab: Lab, node: str, module: str) -> None:
    """SIGKILL to it."""
    pid = process_on(lab, node, module)
    lab.node("enter", int(node.removeprefix("node")), "kill", "-9", pid)


def history(out: Path) -> History:
    """The starts of a run."""
    return History.load(out / "launch")


def training_again(lab: Lab, folder: Path, out: Path, job: str, restart: int) -> Callable[[], bool]:
    """Whether this start has a checkpoint beyond the one that it found."""

    def true() -> bool:
        if f"launch: start {restart} " not in lab.output(folder, job):
            return False
        return newest_checkpoint(out / "checkpoints") > history(out).attempts[-1].progress

    return true
