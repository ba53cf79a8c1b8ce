"""A run that is killed at every step goes on to the same numbers, bit for bit; other engines agree."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.distill.recipe import DistillRecipe
from kit.training.checkpoint_files import steps_in
from tests.kit.training.made import small_recipe
from tests.kit.training.workers import launch

STEPS = 20
POINTS = ("before the step", "before the update is told", "before the save", "while saving", "after the save")
ENGINES: dict[str, dict[str, Any]] = {
    "torch": {"engine": "torch"},
    "zero1": {"engine": "deepspeed", "zero_stage": 1},
    "zero2": {"engine": "deepspeed", "zero_stage": 2},
    "zero3": {"engine": "deepspeed", "zero_stage": 3},
}


def train(recipe: dict[str, Any], kill_step: int = 0, point: str = "") -> int:
    """Run a recipe on this rank; die by SIGKILL at a point of a step (counted from 1)."""
    if kill_step:
        _arm(kill_step, point, int(os.environ["RANK"]))
    from kit.distill.phase import distill

    return distill(DistillRecipe.parse(recipe, "the test")).steps


def _arm(kill_step: int, point: str, rank: int) -> None:
    """Replace one function of the loop by one that kills; only rank 0 is killed, the others notice."""
    from kit.training import checkpoint_commit, loop

    if rank != 0:
        return
    targets: dict[str, tuple[Any, str]] = {
        "before the step": (loop._Run, "_one_step"),
        "before the update is told": (loop._Run, "_note"),
        "before the save": (loop._Run, "_save"),
        "while saving": (checkpoint_commit, "publish"),
        "after the save": (loop._Run, "_save"),
    }
    holder, name = targets[point]
    original: Callable[..., Any] = getattr(holder, name)

    def step_of(arguments: tuple[Any, ...]) -> int:
        if point == "while saving":
            return int(str(Path(arguments[1]).name).rpartition("-")[2])
        return int(arguments[1]) + (point == "before the step")

    def deadly(*arguments: Any) -> Any:
        due = step_of(arguments) == kill_step
        if due and point != "after the save":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments)
        if due:
            arguments[0].store.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, name, deadly)


def everything(out: Path) -> dict[str, Any]:
    """All that a run leaves: tensors of the last checkpoint, its state, the model, metrics without times."""
    from safetensors.torch import load_file

    last = out / "checkpoints" / f"step-{steps_in(out / 'checkpoints')[-1]:08d}"
    tensors = {
        f"{path.name}/{name}": tensor
        for path in sorted(last.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "tensors": tensors,
        "state": json.loads((last / "manifest.json").read_text())["state"]
        | {"recipe": None, "revision": None},
        "model": (out / "model" / "model.safetensors").read_bytes(),
        "metrics": [{key: value for key, value in line.items() if key != "time"} for line in lines],
    }


def same(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What differs, in any bit."""
    import torch

    wrong = [key for key in ("state", "model", "metrics") if found[key] != expected[key]]
    if found["tensors"].keys() != expected["tensors"].keys():
        return [*wrong, "names of tensors"]
    pairs = ((name, found["tensors"][name], tensor) for name, tensor in expected["tensors"].items())
    return wrong + [
        name for name, ours, tensor in pairs if ours.dtype != tensor.dtype or not torch.equal(ours, tensor)
    ]


def recipe_of(folder: Path, engine: str, **sections: dict[str, Any]) -> dict[str, Any]:
    made = small_recipe(folder, parallel=ENGINES[engine], **sections)
    return made.model_dump(mode="json")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "world_size", "every", "stride"),
    [("torch", 1, 1, 1), ("torch", 2, 3, 1), ("zero2", 2, 1, 4), ("zero3", 2, 1, 3)],
)
def test_killed_at_every_step(tmp_path: Path, engine: str, world_size: int, every: int, stride: int) -> None:
    """Partitioned ones, whose starts take seconds, at each point but not at each step."""
    recipe = recipe_of(tmp_path, engine, checkpoint={"every": every})
    assert launch(train, world_size, recipe).result == STEPS
    expected = everything(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    for step in range(1, STEPS + 1, stride):
        point = POINTS[step % len(POINTS)]
        if point in POINTS[2:] and step % every and step != STEPS:
            point = "before the update is told"
        ended = launch(train, world_size, recipe, step, point)
        assert ended.codes[0] == -signal.SIGKILL, f"step {step}, {point}: {ended}"
    assert launch(train, world_size, recipe).result == STEPS
    assert same(everything(tmp_path / "run"), expected) == []
    assert len(expected["metrics"]) == STEPS + 3  # one a step, evaluations at 7, 14 and the end


@pytest.mark.slow
def test_random_state_is_resumed_too(tmp_path: Path) -> None:
    """With dropout, other random numbers would give other weights."""
    sections: dict[str, dict[str, Any]] = {
        "model": {"lora": {"rank": 2, "dropout": 0.3}},
        "optimizer": {"lr": 1e-2},
    }
    recipe = recipe_of(tmp_path, "torch", **sections)
    assert launch(train, 1, recipe).result == STEPS
    expected = everything(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    for step in (5, 11):
        assert launch(train, 1, recipe, step, "before the save").codes == [-signal.SIGKILL]
    assert launch(train, 1, recipe).result == STEPS
    assert same(everything(tmp_path / "run"), expected) == []


@pytest.mark.slow
def test_a_checkpoint_fits_other_engines_and_numbers_of_ranks(tmp_path: Path) -> None:
    """Begun on one, killed, ended on another: the same as never disturbed, but for rounding."""
    from safetensors.torch import load_file

    smooth: dict[str, dict[str, Any]] = {
        "optimizer": {"lr": 1e-4, "eps": 1e-4}
    }  # no division by gradients that are nothing but rounding
    assert launch(train, 1, recipe_of(tmp_path, "torch", **smooth)).result == STEPS
    expected = load_file(tmp_path / "run" / "model" / "model.safetensors")
    start = load_file(tmp_path / "student" / "model.safetensors")
    shutil.rmtree(tmp_path / "run")
    relay = [
        ("zero3", 2, 4),
        ("torch", 1, 8),
        ("zero1", 2, 12),
        ("torch", 2, 14),
        ("zero2", 1, 16),
        ("zero3", 2, 0),
    ]
    for engine, world_size, kill_step in relay:
        recipe = recipe_of(tmp_path, engine, **smooth)
        ended = launch(train, world_size, recipe, kill_step, "after the save" if kill_step else "")
        assert ended.codes[0] == (-signal.SIGKILL if kill_step else 0), f"{engine}: {ended}"
    found = load_file(tmp_path / "run" / "model" / "model.safetensors")
    for name, tensor in expected.items():
        moved = float((tensor - start[name]).abs().max())
        assert float((found[name] - tensor).abs().max()) < 1e-3 * moved, name


Told = tuple[list[float], list[float], dict[str, Any]]


def told_by(folder: Path, engine: str) -> Told:
    """A run of two ranks, which is then removed: its losses, its gradients' norms and its weights."""
    from safetensors.torch import load_file

    smooth: dict[str, dict[str, Any]] = {
        "optimizer": {"lr": 1e-4, "eps": 1e-4, "weight_decay": 0.1, "max_grad_norm": 0.5}
    }
    assert launch(train, 2, recipe_of(folder, engine, **smooth)).result == STEPS
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["values"]["loss"] for line in lines]
    norms = [line["values"]["grad_norm"] for line in lines if line["kind"] == "train"]
    weights = load_file(folder / "run" / "model" / "model.safetensors")
    shutil.rmtree(folder / "run")
    return losses, norms, weights


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """A folder with model and data, and what plain torch tells there."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, told_by(folder, "torch")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
def test_zero_equals_plain_torch(plain: tuple[Path, Told], engine: str) -> None:
    from safetensors.torch import load_file

    folder, (losses, norms, weights) = plain
    found = told_by(folder, engine)
    assert found[0] == pytest.approx(losses, rel=1e-5)
    assert found[1] == pytest.approx(norms, rel=1e-3)
    start = load_file(folder / "student" / "model.safetensors")
    for name, tensor in weights.items():
        moved = float((tensor - start[name]).abs().max())
        assert moved > 0
        assert float((found[2][name] - tensor).abs().max()) < 1e-3 * moved, name


def stopped_at(recipe: dict[str, Any], step: int) -> int:
    """Run until SIGUSR1 comes during a step; returns the steps done."""
    from kit.training import loop

    original = loop._Run._one_step

    def signalled(run: Any, number: int) -> Any:
        if number + 1 == step:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(run, number)

    setattr(loop._Run, "_one_step", signalled)  # noqa: B010 - mypy takes no assignment to a method
    return train(recipe)


@pytest.mark.slow
def test_a_stop_at_an_evaluation_loses_none(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "torch")
    assert launch(train, 1, recipe).result == STEPS
    expected = everything(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    for step in (7, STEPS):  # evaluations are due at both
        assert launch(stopped_at, 1, recipe, step).result == step
    assert launch(train, 1, recipe).result == STEPS
    assert same(everything(tmp_path / "run"), expected) == []
