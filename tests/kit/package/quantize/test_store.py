"""Results are made once, whole or not at all."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kit.package.quantize import store
from kit.package.quantize.store import obtain


class Maker:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, work: Path) -> dict[str, Any]:
        self.times += 1
        (work / "model" / "weights").write_text(f"made {self.times}")
        (work / "scratch").write_text("not part of it")
        return {"made": self.times}


def get(folder: Path, make: Any) -> dict[str, Any]:
    return obtain(folder, "record.json", 0, lambda _: None, make)


def test_a_result_is_made_once_and_read_after(tmp_path: Path) -> None:
    make = Maker()
    first = get(tmp_path / "a" / "r", make)
    assert get(tmp_path / "a" / "r", make) == first
    assert (make.times, first["made"], list(first["files"])) == (1, 1, ["weights"])
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [".r.lock", "r"]


@pytest.mark.parametrize("harm", ["change", "remove", "record"])
def test_a_result_that_is_not_as_written_is_made_anew(tmp_path: Path, harm: str) -> None:
    make = Maker()
    folder = tmp_path / "r"
    get(folder, make)
    if harm == "change":
        (folder / "weights").write_text("tampered")
    else:
        (folder / ("weights" if harm == "remove" else "record.json")).unlink()
    assert get(folder, make)["made"] == 2
    assert (folder / "weights").read_text() == "made 2"


@pytest.mark.parametrize("error", [ValueError("too lossy"), OSError(28, "No space left on device")])
def test_a_failure_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    def make(work: Path) -> dict[str, Any]:
        (work / "model" / "half").write_text("x")
        raise error

    with pytest.raises(ValueError, match=r"too lossy|No space left"):
        get(tmp_path / "r", make)
    assert [path.name for path in tmp_path.iterdir()] == [".r.lock"]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".r.tmp" / "model").mkdir(parents=True)
    (tmp_path / ".r.tmp" / "model" / "old").write_text("x")
    get(tmp_path / "r", Maker())
    assert not (tmp_path / "r" / "old").exists()
    assert not (tmp_path / ".r.tmp").exists()


def test_a_full_disk_is_told_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(5))
    make = Maker()
    with pytest.raises(ValueError, match="are needed"):
        store.obtain(tmp_path / "r", "record.json", 10, lambda _: None, make)
    assert make.times == 0
