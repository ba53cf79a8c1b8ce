"""A run that is killed at any point of any step goes on to the same numbers, bit for bit."""

import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kit.grpo.recipe import GrpoRecipe
from kit.training.checkpoint_files import steps_in
from tests.kit.grpo.made import ENGINES, grpo_recipe, rewarded, train
from tests.kit.training.test_resume import everything, same
from tests.kit.training.workers import launch

MARK = "AIMO_TEST_OF_RESUME"
"""In the environment of all processes of a run: to find what is left of it."""

Kill = tuple[int, str, int]
"""Step (from 0), point, and the rank that is killed there."""

POINTS: tuple[tuple[str, int], ...] = (
    ("while drawing", 0),
    ("before the rewards", 0),
    ("before the table", 0),
    ("after the save", 0),
    ("after the table", 0),
    ("while drawing", 1),
    ("before the export of the reference", 0),
    ("after the export of the reference", 0),
    ("before update 0", 1),
    ("before update 1", 0),
    ("before update 3", 1),
    ("after the updates", 0),
    ("while evaluating", 0),
    ("while saving", 0),
)
"""Where, and which rank (of two)."""
IN_ORDER = ("drawing", "rewards", "before the table", "after the table", "export", "update", "eval", "sav")
"""What comes when in a step: what was written by an earlier kill's start is not done again."""


def killed(recipe: dict[str, Any], mark: str, kill: Kill | None = None) -> dict[str, Any]:
    """Train; die by SIGKILL at a point of a step."""
    os.environ[MARK] = mark
    if kill is not None and int(os.environ["RANK"]) == kill[2]:
        _arm(kill[0], kill[1])
    return train(recipe)


def _arm(step: int, point: str) -> None:
    """Replace one function by one that kills, before or after it does its work."""
    from kit.grpo import collect, reference, steps
    from kit.grpo.samplers.local import LocalSampler
    from kit.rewards.judge import Judge
    from kit.training import checkpoint_commit, loop

    now = [-1]
    one_step = steps.GrpoSteps.step

    def noted(self: Any, number: int, lr: float) -> Any:
        now[0] = number
        return one_step(self, number, lr)

    steps.GrpoSteps.step = noted  # type: ignore[method-assign, assignment]
    update = 0
    if point.startswith("before update "):
        point, update = "before update", int(point.rpartition(" ")[2])
    holder, name = {
        "while drawing": (LocalSampler, "sample"),
        "before the rewards": (Judge, "score"),
        "before the table": (steps, "write_table"),
        "after the table": (steps, "write_table"),
        "before update": (steps, "run_step"),
        "after the updates": (steps.GrpoSteps, "_train"),
        "before the export of the reference": (reference.Reference, "module"),
        "after the export of the reference": (reference.Reference, "module"),
        "while evaluating": (collect.Collector, "evaluate"),
        "while saving": (checkpoint_commit, "publish"),
        "after the save": (loop._Run, "_save"),
    }[point]
    original: Callable[..., Any] = getattr(holder, name)
    calls = [0]

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def deadly(*arguments: Any, **settings: Any) -> Any:
        due = now[0] == step
        if name == "publish":  # in a thread, beside the steps that follow
            due = str(arguments[1]).endswith(f"-{step + 1:08d}")
        if due and name == "module":
            return _deadly_export(original, arguments, die, late=point.startswith("after"))
        if due and not point.startswith("after"):
            calls[0] += 1
            if calls[0] > update:
                die()
        result = original(*arguments, **settings)
        if due and point.startswith("after"):
            if name == "_save":
                arguments[0].store.wait()
            die()
        return result

    setattr(holder, name, deadly)


def _deadly_export(original: Any, arguments: tuple[Any, ...], die: Callable[[], None], *, late: bool) -> Any:
    """The reference of a step, killed around its export."""
    held = arguments[0]
    keep = held.keep

    def exported(path: Path) -> None:
        if late:
            keep(path)
        die()

    held.keep = exported
    return original(*arguments)


def all_of(out: Path) -> dict[str, Any]:
    """What a run leaves, its tables and references too."""
    import polars as pl

    tables = {path.name: pl.read_parquet(path).rows() for path in sorted((out / "rollouts").iterdir())}
    references = {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted((out / "reference").rglob("*.safetensors"))
    }
    return everything(out) | {"tables": repr(tables), "references": references}


def differs(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of what is not the same. Which references are left depends on the checkpoints that are."""
    common = found["references"].keys() & expected["references"].keys()
    wrong = [name for name in common if found["references"][name] != expected["references"][name]]
    return same(found, expected) + wrong + ["tables"] * (found["tables"] != expected["tables"])


def needed(out: Path) -> set[str]:
    """References that the checkpoints in a folder go on with; at a change of it a step makes its own anew."""
    steps = [done for done in steps_in(out / "checkpoints") if done > 2 and done % 2]
    return {f"reference/step-{done - 1:08d}/model.safetensors" for done in steps}


def recipe_of(folder: Path, engine: str, every: int, episodes: int) -> GrpoRecipe:
    """Four updates a step, groups that are replaced, a reference that changes, evaluations, own rewards."""
    return grpo_recipe(
        folder,
        parallel=ENGINES[engine],
        batch={"num_episodes": episodes, "minibatches": 2, "epochs": 2},
        policy={"kl_coef": 0.1, "reference_every": 2},
        rewards=rewarded("coin"),
        data={"validation_share": 0.2},
        evaluation={"every": 3},
        checkpoint={"every": every},
    )


def left_alive(mark: str) -> list[str]:
    """Command lines of a run's processes, after a few seconds to end by themselves."""
    import psutil

    until = time.monotonic() + 15
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.2)


def kills(points: Sequence[tuple[str, int]], world_size: int, episodes: int, every: int) -> list[Kill]:
    """The points spread over the run's steps, each where it comes up."""
    found = []
    for number, (point, rank) in enumerate(points):
        step = round(number * (episodes - 1) / len(points))
        if "reference" in point:
            step = max(2, step // 2 * 2)
        if point == "while evaluating":
            step = step // 3 * 3 + 2
        if "sav" in point:
            step = step // every * every + every - 1
        assert step < episodes, "a longer run is needed"
        found.append((step, point, rank % world_size))

    def turn(kill: Kill) -> tuple[int, int]:
        return kill[0], next(index for index, part in enumerate(IN_ORDER) if part in kill[1])

    return sorted(found, key=turn)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "world_size", "every", "episodes"),
    [("torch", 1, 1, 9), ("torch", 2, 3, 9), ("zero2", 2, 1, 6), ("zero3", 2, 3, 6)],
)
def test_killed_anywhere(tmp_path: Path, engine: str, world_size: int, every: int, episodes: int) -> None:
    """One run, killed again and again: partitioned ones at every other point."""
    recipe = recipe_of(tmp_path, engine, every, episodes).model_dump(mode="json")
    mark = secrets.token_hex(8)
    assert launch(killed, world_size, recipe, mark).result["steps"] == episodes
    expected = all_of(tmp_path / "run")
    assert expected["references"].keys() == needed(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    points = {"torch": POINTS, "zero2": POINTS[::3], "zero3": POINTS[1::3]}[engine]
    for kill in kills(points, world_size, episodes, every):
        ended = launch(killed, world_size, recipe, mark, kill)
        assert ended.codes[kill[2]] == -signal.SIGKILL, f"{kill}: {ended}"
    assert launch(killed, world_size, recipe, mark).result["steps"] == episodes
    found = all_of(tmp_path / "run")
    assert differs(found, expected) == []
    assert found["references"].keys() == needed(tmp_path / "run")
    assert left_alive(mark) == []


@pytest.mark.slow
def test_stopped_by_a_signal(tmp_path: Path) -> None:
    """Between checkpoints, on two ranks: saved at the step's end, and gone on from there."""
    from tests.kit.grpo.test_phase import stopped_after

    recipe = recipe_of(tmp_path, "torch", 0, 5).model_dump(mode="json")
    assert launch(train, 2, recipe).result["steps"] == 5
    expected = all_of(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert launch(stopped_after, 2, recipe, 3).result["steps"] == 3  # where an evaluation is due
    assert launch(train, 2, recipe).result["steps"] == 5
    found = all_of(tmp_path / "run")
    assert differs(found, expected) == []
    assert found["references"].keys() == needed(tmp_path / "run")


@pytest.mark.slow
def test_a_lost_table_or_reference_is_named(tmp_path: Path) -> None:
    from tests.kit.grpo.test_phase import refused, stopped_after

    recipe = recipe_of(tmp_path, "torch", 1, 6)
    assert launch(stopped_after, 1, recipe.model_dump(mode="json"), 3).result["steps"] == 3
    table = tmp_path / "run" / "rollouts" / "step-00000001.parquet"
    kept = table.read_bytes()
    table.unlink()
    refused(recipe, r"step-00000001\.parquet is missing .*, but step 2 is done: put it back", 2)
    table.write_bytes(kept)
    shutil.rmtree(tmp_path / "run" / "reference")
    refused(recipe, r"reference/step-00000002 is missing, the reference of step 4: put it back", 2)
