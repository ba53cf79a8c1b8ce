"""Which model a step's divergence is from, and what a resumed run needs on disk for it."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.grpo.reference import Reference, resumable


class Adapted:
    """Only what is asked of a PEFT model."""

    off: Any = False

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.off = True
        yield
        self.off = False


class Made:
    """A reference whose models are texts; notes what is exported and loaded."""

    def __init__(
        self,
        folder: Path,
        every: int,
        adapted: Adapted | None = None,
        checkpoints: Callable[[], Collection[int]] | None = None,
    ) -> None:
        self.notes: list[str] = []

        def keep(path: Path) -> None:
            self.notes.append(f"keep {path.name}")
            path.mkdir(parents=True, exist_ok=True)

        def load(path: Path) -> Any:
            self.notes.append(f"load {path.name}")
            return path.name

        self.reference = Reference(
            start=None if adapted else "start",
            trained="trained",
            adapted=adapted,
            every=every,
            keep=keep,
            load=load,
            folder=folder,
            resumable=checkpoints,
        )

    def of(self, step: int) -> Any:
        with self.reference.module(step) as module:
            return module


def test_the_start_is_kept(tmp_path: Path) -> None:
    made = Made(tmp_path, 0)
    assert [made.of(step) for step in (0, 1, 100)] == ["start"] * 3
    assert made.notes == []


def test_the_policy_becomes_the_reference(tmp_path: Path) -> None:
    """Exported once, at the step from which on it is used."""
    made = Made(tmp_path, 2)
    names = ["start", "start", "step-00000002", "step-00000002", "step-00000004"]
    assert [made.of(step) for step in range(5)] == names
    assert made.notes == [f"{verb} step-0000000{step}" for step in (2, 4) for verb in ("keep", "load")]
    assert made.of(4) == "step-00000004" and len(made.notes) == 4


def test_without_the_adapters_the_trained_model_is_the_start(tmp_path: Path) -> None:
    adapted = Adapted()
    made = Made(tmp_path, 2, adapted)
    with made.reference.module(1) as module:
        assert module == "trained" and adapted.off
    assert not adapted.off
    with made.reference.module(2) as module:
        assert module == "step-00000002" and not adapted.off


@pytest.mark.parametrize("step", [4, 5])
def test_a_resumed_run(tmp_path: Path, step: int) -> None:
    """At the step of the change it exports anew, behind it what was exported is loaded."""
    (tmp_path / "step-00000004").mkdir()
    made = Made(tmp_path, 4)
    assert made.of(step) == "step-00000004"
    assert made.notes == ["keep step-00000004"] * (step == 4) + ["load step-00000004"]


def test_an_export_that_is_gone_is_named(tmp_path: Path) -> None:
    expected = rf"{re.escape(str(tmp_path))}/step-00000004 is missing, the reference of step 6: put it back"
    with pytest.raises(ValueError, match=expected):
        Made(tmp_path, 4).of(5)


def exports(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


def test_exports_that_no_checkpoint_needs_are_deleted(tmp_path: Path) -> None:
    """Checkpoint 5 of a reference that changes every 4 steps goes on with step number 5, whose is 4."""
    checkpoints: set[int] = set()
    made = Made(tmp_path, 4, checkpoints=lambda: checkpoints)
    for step in range(9):
        made.of(step)
    # A checkpoint of step 7 may be on its way: the period before stays.
    assert exports(tmp_path) == [4, 8]
    checkpoints |= {5, 8, 12}
    for step in range(9, 17):
        made.of(step)
    assert exports(tmp_path) == [4, 12, 16]
    # 12 makes its own anew; 5 is gone.
    checkpoints.remove(5)
    made.reference.tidy()
    assert exports(tmp_path) == []


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("best", [2, 4, 6])
def test_a_run_goes_on_from_any_checkpoint_that_is_kept(tmp_path: Path, best: int, late: int) -> None:
    """The last two and the best one, whose commits are `late` steps behind: killed after any step."""
    every, now = 3, 0

    def checkpoints() -> set[int]:
        done = max(0, now - late)
        return {step for step in (best, done - 1, done) if 0 < step <= done}

    made = Made(tmp_path, every, checkpoints=checkpoints)
    for now in range(14):
        made.of(now)
        for done in checkpoints():
            since = done - done % every
            assert since in {0, done} or since in exports(tmp_path), (now, done)
    late = 0
    made.reference.tidy()
    needed = {done - done % every for done in checkpoints() if done % every} - {0}
    assert exports(tmp_path) == sorted(needed)
    again = Made(tmp_path, every)
    assert again.of(best) == (f"step-{best - best % every:08d}" if best >= every else "start")


def test_nobody_but_rank_0_deletes_and_nothing_else_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for step in (2, 4):
        (tmp_path / f"step-{step:08d}").mkdir()
    Made(tmp_path, 2).reference.tidy()
    assert len(list(tmp_path.iterdir())) == 3
    Made(tmp_path, 2, checkpoints=set).reference.tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_checkpoints_that_are_being_committed_count(tmp_path: Path) -> None:
    assert resumable(tmp_path / "none") == set()
    for name in ("step-00000003", ".step-00000004.tmp-a1-1", ".step-00000001.old-a1-1", "other"):
        (tmp_path / name).mkdir()
    assert resumable(tmp_path) == {1, 3, 4}
