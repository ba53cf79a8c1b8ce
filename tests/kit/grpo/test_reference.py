"""Which model a step's divergence is from, and what a resumed run needs on disk for it."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.grpo.reference import Reference


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

    def __init__(self, folder: Path, every: int, adapted: Adapted | None = None) -> None:
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
