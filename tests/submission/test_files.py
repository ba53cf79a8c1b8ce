"""Atomic writing: the old file or the new one, never half of either."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from submission.files import atomic_writer, write_bytes, write_text

ROOT = Path(__file__).resolve().parents[2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(old=st.none() | st.binary(max_size=200), new=st.binary(max_size=200))
def test_bytes_come_back_whatever_was_there(tmp_path: Path, old: bytes | None, new: bytes) -> None:
    path = tmp_path / "file.bin"
    path.unlink(missing_ok=True)
    if old is not None:
        path.write_bytes(old)
    write_bytes(path, new)
    assert path.read_bytes() == new
    assert [item.name for item in tmp_path.iterdir()] == ["file.bin"]


def test_text_is_utf8_without_newline_translation(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "text.txt"
    write_text(path, "Größe\r\n数\n")
    assert path.read_bytes() == "Größe\r\n数\n".encode()


def test_file_is_readable_for_everyone_and_writable_by_its_owner(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [RuntimeError("bug"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_writer(path) as file:
        file.write(b"half of the new one")
        file.flush()
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_full_disk_at_sync_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_text(tmp_path / "file", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from submission.files import atomic_writer\n"
        "with atomic_writer(Path(sys.argv[1])) as file:\n"
        "    file.write(b'x' * 1_000_000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_unwritable_place_is_an_error_not_silence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "inner", "x")
