"""Copying and hashing in one pass, with and without the kernel's help."""

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kit.package import copying
from kit.package.copying import Item, Piece, copy_and_hash, write_all


@pytest.mark.parametrize("kernel", ["copies", "refuses", "says nothing"])
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 300_007])
def test_a_copy_is_exact_and_so_is_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, kernel: str
) -> None:
    monkeypatch.setattr(copying, "STEP", 1000)
    monkeypatch.setattr(copying, "SMALL", 1000)
    if kernel != "copies":

        def copy_file_range(*_: object) -> int:
            if kernel == "refuses":
                raise OSError(errno.EXDEV, "across file systems")
            return 0

        monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    counts: list[int] = []
    with ThreadPoolExecutor(1) as hashers:
        copied, digest = copy_and_hash([Piece(source)], target, hashers, counts.append)
    assert (copied, digest.result()) == (size, hashlib.sha256(source.read_bytes()).hexdigest())
    assert target.read_bytes() == source.read_bytes()
    assert sum(counts) == size


def test_a_failing_hash_stops_neither_the_copy_nor_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More steps follow than the queue holds: a copy that waited for its follower would hang here."""
    monkeypatch.setattr(copying, "STEP", 100)
    monkeypatch.setattr(copying, "_update", lambda *_: 1 // 0)
    (tmp_path / "source").write_bytes(bytes(10_000))
    with ThreadPoolExecutor(1) as hashers:
        _, digest = copy_and_hash([Piece(tmp_path / "source")], tmp_path / "target", hashers, lambda _: None)
    with pytest.raises(ZeroDivisionError):
        digest.result()


def test_entries_come_sorted(tmp_path: Path) -> None:
    items = [Item("b/c", b"1", 1), Item("a", b"22", 2), Item("b/a", b"", 0)]
    (tmp_path / "out").mkdir()
    entries = write_all(items, tmp_path / "out", lambda _: None)
    assert [(entry.path, entry.size) for entry in entries] == [("a", 2), ("b/a", 0), ("b/c", 1)]
