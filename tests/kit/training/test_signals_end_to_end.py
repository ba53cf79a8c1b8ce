"""A signal to training: it saves, says so by its exit code, and the next start ends as if undisturbed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from kit.distill.recipe import DistillRecipe
from kit.training.checkpoint_files import steps_in
from tests.kit.training.made import small_recipe
from tests.kit.training.test_resume import everything, same
from tests.kit.training.workers import launch

STEPS = 120
ROOT = Path(__file__).resolve().parents[3]


def long_recipe(folder: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    base: dict[str, dict[str, Any]] = {
        "batch": {"epochs": 100.0, "max_steps": STEPS},
        "checkpoint": {"every": 0},
        "evaluation": {"every": 0},
    }
    return small_recipe(folder, **(base | sections)).model_dump(mode="json")


def train(recipe: dict[str, Any], kind: str = "", rank: int = 0, step: int = 0) -> dict[str, Any]:
    """Train, with a signal to one rank in one step."""
    from kit.distill.phase import distill
    from kit.training import loop

    one_step = loop._Run._one_step

    def signalled(self: Any, now: int) -> Any:
        if now == step and kind and int(os.environ["RANK"]) == rank:
            os.kill(os.getpid(), getattr(signal, kind))
        return one_step(self, now)

    loop._Run._one_step = signalled  # type: ignore[method-assign, assignment]
    outcome = distill(DistillRecipe.parse(recipe, "the test"))
    return {"steps": outcome.steps, "stopped": outcome.stopped, "code": outcome.exit_code}


def write_toml(path: Path, recipe: dict[str, Any]) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in recipe.items() if not isinstance(value, dict)]
    for name, section in recipe.items():
        if isinstance(section, dict) and name not in ("assume", "teacher"):
            lines.append(f"[{name}]")
            lines += [
                f"{key} = {json.dumps(value)}"
                for key, value in section.items()
                if value is not None and not isinstance(value, dict)
            ]
    path.write_text("\n".join(lines) + "\n")


def begin(command: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    environment = {name: text for name, text in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
        )


def await_step(process: "subprocess.Popen[bytes]", out: Path) -> None:
    """Until the first step is written down."""
    until = time.monotonic() + 200
    path = out / "metrics.jsonl"
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, (out.parent / "log").read_text()
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with model and data, and all that a run there leaves."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert launch(train, 1, long_recipe(folder)).result["steps"] == STEPS
    return folder, everything(folder / "run")


@pytest.mark.slow
def test_the_command_line_saves_and_asks_to_be_requeued(
    tmp_path: Path, undisturbed: tuple[Path, dict[str, Any]]
) -> None:
    folder, expected = undisturbed
    recipe = long_recipe(folder)
    shutil.rmtree(folder / "run")
    write_toml(tmp_path / "recipe.toml", recipe)
    process = begin(["kit.train", "distill", str(tmp_path / "recipe.toml")], folder)
    await_step(process, folder / "run")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=120) == 85, (folder / "log").read_text()
    (step,) = steps_in(folder / "run" / "checkpoints")
    assert 0 < step < STEPS
    said = (folder / "log").read_text()
    assert f"SIGUSR1: saved after step {step} of {STEPS}; start again to go on" in said
    assert "Traceback" not in said
    assert not (folder / "run" / "model").exists()
    assert launch(train, 1, recipe).result == {"steps": STEPS, "stopped": "", "code": 0}
    assert same(everything(folder / "run"), expected) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [("SIGUSR2", 85), ("SIGTERM", 85), ("SIGINT", 130)])
def test_every_signal(tmp_path: Path, kind: str, code: int) -> None:
    recipe = long_recipe(tmp_path, batch={"max_steps": 6})
    assert launch(train, 1, recipe, kind, 0, 2).result == {"steps": 3, "stopped": kind, "code": code}
    assert steps_in(tmp_path / "run" / "checkpoints") == [3]


@pytest.mark.slow
def test_a_signal_in_the_last_step_is_the_end(tmp_path: Path) -> None:
    recipe = long_recipe(tmp_path, batch={"max_steps": 4})
    ended = launch(train, 1, recipe, "SIGTERM", 0, 3).result
    assert (ended["steps"], ended["code"]) == (4, 0)
    assert (tmp_path / "run" / "model").is_dir()


@pytest.mark.slow
def test_torchrun_stops_both_ranks_on_a_signal_to_one(tmp_path: Path) -> None:
    recipe = long_recipe(tmp_path)
    assert launch(train, 2, recipe).result["steps"] == STEPS
    expected = everything(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    write_toml(tmp_path / "recipe.toml", recipe)
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kit.train", "distill"]
    process = begin([*command, str(tmp_path / "recipe.toml")], tmp_path)
    await_step(process, tmp_path / "run")
    workers = {
        child.environ().get("RANK"): child for child in psutil.Process(process.pid).children(recursive=True)
    }
    workers["1"].send_signal(signal.SIGUSR1)
    assert process.wait(timeout=120) != 0
    said = (tmp_path / "log").read_text()
    (step,) = steps_in(tmp_path / "run" / "checkpoints")
    assert 0 < step < STEPS
    assert f"saved after step {step} of {STEPS}" in said
    assert "exitcode  : 85" in said, said
    assert launch(train, 2, recipe).result["steps"] == STEPS
    assert same(everything(tmp_path / "run"), expected) == []
