"""Folders that are made once, whole or not at all, and kept under the digest of what they were made from."""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.package.quantize.environment import Say
from kit.package.quantize.layers import file_digests
from submission.checkpoint import read_json
from submission.files import write_text

MODEL = "model"
"""Folder within the working folder that `make` fills; it becomes the result."""


def obtain(
    folder: Path, record: str, needed: float, say: Say, make: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """The record of `folder`, which is made if it is not there or is not as it was written.

    Args:
        record: name of the file in it that holds the record, with the SHA-256 of every other file.
        needed: bytes of free disk that making it takes.
        make: fills `model` in the working folder that it is given, and returns the record.

    Raises:
        ValueError: from `make`, or the disk is full; nothing is left then.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_name(f".{folder.name}.lock"), folder, say):
            kept = _kept(folder, record)
            if kept is not None:
                say(f"{folder} stands, reused")
                return kept
            return _make(folder, record, needed, make)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made: {error}") from error


@contextmanager
def _alone(path: Path, folder: Path, say: Say) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that makes {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _kept(folder: Path, record: str) -> dict[str, Any] | None:
    """The record of a folder whose every file is as it was written; else None."""
    if not (folder / record).is_file():
        return None
    content: dict[str, Any] = read_json(folder / record)
    files = content["files"]
    if any(not (folder / name).is_file() for name in files):
        return None
    return content if file_digests(folder, tuple(files)) == files else None


def _make(folder: Path, record: str, needed: float, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise ValueError(f"{folder.parent} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed")
    work = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)  # what a killed run left
    try:
        made = work / MODEL
        made.mkdir(parents=True)
        content = make(work)
        names = tuple(sorted(path.name for path in made.iterdir()))
        text = json.dumps({**content, "files": file_digests(made, names)}, indent=1)
        write_text(made / record, text + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    # As it will be read the next time: a first build and a second one say the same.
    kept: dict[str, Any] = json.loads(text)
    return kept
