"""The notebook in the run that counts, where a mount is broken or a step fails for a moment."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.kit.package.made import make_bundle, make_checkpoint
from tests.kit.package.test_notebook import code_cells, run_cells


def test_a_broken_mount_hides_no_bundle(tmp_path: Path) -> None:
    """One that cannot even be asked whether it is a folder."""
    bundle = tmp_path / "input" / "datasets" / "someone" / "aimo-bundle"
    bundle.parent.mkdir(parents=True)
    make_bundle(bundle, make_checkpoint(tmp_path / "model"))
    for place in (bundle.parent, bundle.parents[1], bundle.parents[2]):
        (place / "broken").symlink_to("n" * 300)
    done = run_cells(code_cells()[:2], tmp_path / "input", tmp_path / "working")
    assert done.stdout.startswith(f"bundle {bundle}: "), done.stderr


def helpers(monkeypatch: pytest.MonkeyPatch, rerun: str) -> dict[str, Any]:
    """What the notebook defines for its commands; nothing is waited for."""
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", rerun)
    monkeypatch.setattr("time.sleep", lambda _: None)
    for name in ("AIMO_STARTED_AT", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "")
    first, *others = code_cells()
    commands = next(cell for cell in others if "def run(" in cell)
    found: dict[str, Any] = {}
    exec(compile(f"{first}\nimport subprocess\n{commands}", "cell", "exec"), found)  # noqa: S102
    return found


@pytest.mark.parametrize(("rerun", "failures", "done"), [("1", 2, True), ("1", 3, False), ("", 1, False)])
def test_a_step_is_tried_again_in_the_rerun_alone(
    monkeypatch: pytest.MonkeyPatch, rerun: str, failures: int, done: bool
) -> None:
    persist = helpers(monkeypatch, rerun)["persist"]
    left = [RuntimeError("pip failed"), OSError("stale handle"), ValueError("changed")][:failures]

    def step() -> str:
        if left:
            raise left.pop(0)
        return "done"

    if done:
        assert persist(step) == "done"
    else:
        with pytest.raises((RuntimeError, ValueError)):
            persist(step)


def test_output_that_cannot_be_shown_ends_no_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = helpers(monkeypatch, "1")
    said: list[str] = []

    def broken(*words: object, **_: object) -> None:
        said.append(" ".join(map(str, words)))
        if len(said) > 1:
            raise BlockingIOError("the cell's output is full")

    found["print"] = broken
    found["run"](["/bin/sh", "-c", f"echo one; echo two; sleep 0.1; touch {tmp_path / 'done'}"])
    assert said[1:] == ["one\n", "two\n"] and (tmp_path / "done").exists()


def test_what_makes_another_python_of_it_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONPATH"):
        monkeypatch.setenv(name, "2")
    clean = helpers(monkeypatch, "1")["clean"]
    assert not {"PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONPATH"} & clean.keys()
    assert clean["PATH"] == os.environ["PATH"]
