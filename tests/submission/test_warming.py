"""Reading weights ahead: all of them, no more than memory holds, and never in the way."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from submission import warming
from submission.warming import available_memory, start_warming, warm
from tests.submission.test_bundle import write_bundle

FILES = {
    "contest.toml": b"x" * 1000,
    "model/config.json": b"{}",
    "model/model-00001-of-00002.safetensors": b"a" * 5000,
    "model/model-00002-of-00002.safetensors": b"b" * 3001,
    "prm/model.safetensors": b"",
}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The pieces that were read."""
    seen: list[tuple[str, int, int]] = []
    real = warming._read

    def note(root: int, path: str, start: int, length: int) -> int:
        seen.append((path, start, length))
        return real(root, path, start, length)

    monkeypatch.setattr(warming, "_read", note)
    monkeypatch.setattr(warming, "STEP", 2000)
    return seen


@pytest.mark.parametrize("readers", [1, 3])
def test_every_byte_of_the_weights_is_read_once(
    tmp_path: Path, read: list[tuple[str, int, int]], readers: int
) -> None:
    root = write_bundle(tmp_path / "b", FILES)
    assert warm(root, readers) == 8001
    first, second = "model/model-00001-of-00002.safetensors", "model/model-00002-of-00002.safetensors"
    assert sorted(read) == [
        (first, 0, 2000),
        (first, 2000, 2000),
        (first, 4000, 1000),
        (second, 0, 2000),
        (second, 2000, 1001),
    ]


def test_no_more_is_read_than_memory_holds(tmp_path: Path, read: list[tuple[str, int, int]]) -> None:
    root = write_bundle(tmp_path / "b", FILES)
    # 80 % of what is available, from the front.
    assert warm(root, 2, memory=6000) == 4800
    assert max(read) == ("model/model-00001-of-00002.safetensors", 4000, 800)


def test_a_file_that_became_shorter_ends_its_piece(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "b", FILES)
    os.truncate(root / "model/model-00001-of-00002.safetensors", 100)
    assert warm(root) == 3101


def test_a_link_is_not_followed_and_a_missing_file_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_bundle(tmp_path / "b", FILES)
    path = root / "model/model-00001-of-00002.safetensors"
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="symbolic links"):
        warm(root)
    path.unlink()
    start_warming(root).join()
    assert "were not read ahead: [Errno 2]" in caplog.text


def test_it_runs_behind_and_says_what_it_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    thread = start_warming(write_bundle(tmp_path / "b", FILES))
    thread.join()
    assert thread.daemon
    assert "read 0.0 GB of weights ahead" in caplog.text


def test_the_systems_own_figure() -> None:
    assert 1 << 26 < available_memory() < 1 << 46


@pytest.mark.parametrize("module", ["bundle", "bytecode", "joining", "warming"])
def test_what_runs_before_the_install_needs_no_library(module: str) -> None:
    root = Path(warming.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import submission.{module}"
    # -S: no site-packages, as on a machine where nothing is installed.
    subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], check=True, timeout=60)
