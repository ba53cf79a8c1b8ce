"""A run that is killed goes on to the same numbers, bit for bit."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.kit.prm.made import prm_recipe
from tests.kit.prm.made import train as train_whole
from tests.kit.training.test_resume import ENGINES, POINTS, _arm, everything, same
from tests.kit.training.workers import launch

STEPS = 12


def train(recipe: dict[str, Any], kill_step: int = 0, point: str = "") -> int:
    """Run a recipe on this rank; rank 0 dies by SIGKILL at a point of a step (counted from 1)."""
    import os

    if kill_step:
        _arm(kill_step, point, int(os.environ["RANK"]))
    return train_whole(recipe)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "world_size", "head", "lora", "kills"),
    [
        ("torch", 1, "logprob", False, ((2, 1), (6, 3), (9, 0))),
        ("zero3", 2, "process_reward", False, ((5, 3), (12, 0))),
        ("torch", 2, "token_classification", True, ((2, 2), (9, 4))),
    ],
)
def test_killed_again_and_again(
    tmp_path: Path, engine: str, world_size: int, head: str, lora: bool, kills: tuple[tuple[int, int], ...]
) -> None:
    recipe = prm_recipe(
        tmp_path,
        parallel=ENGINES[engine],
        head={"kind": head, "dropout": 0.0 if head == "logprob" else 0.2},
        model={"lora": {"rank": 2, "dropout": 0.3} if lora else None},
        data={"path": str(tmp_path / "steps.jsonl")},
    ).model_dump(mode="json")
    assert launch(train, world_size, recipe).result == STEPS
    expected = everything(tmp_path / "run")
    assert len(expected["metrics"]) == STEPS + 3  # one a step, evaluations at 5, 10 and the end
    form = (tmp_path / "run" / "model" / "prm.json").read_text()
    shutil.rmtree(tmp_path / "run")
    for step, point in kills:
        ended = launch(train, world_size, recipe, step, POINTS[point])
        assert ended.codes[0] == -signal.SIGKILL, f"step {step}: {ended}"
    assert launch(train, world_size, recipe).result == STEPS
    assert same(everything(tmp_path / "run"), expected) == []
    assert (tmp_path / "run" / "model" / "prm.json").read_text() == form
