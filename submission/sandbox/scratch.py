"""A worker's folder: how much lies in it, and its removal, whatever hostile code made of it."""

import contextlib
import itertools
import os
from pathlib import Path

MAX_ENTRIES = 1_000
"""Files and folders at most; more of them count as a full folder."""
_FEW = 32


def usage(folder: Path) -> int | None:
    """Bytes on disk of all that lies beneath, links not followed; None where there is too much to count."""
    total, entries, left = 0, 0, [str(folder)]
    while left:
        try:
            with os.scandir(left.pop()) as found:
                for entry in found:
                    entries += 1
                    if entries > MAX_ENTRIES:
                        return None
                    with contextlib.suppress(FileNotFoundError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
        except (FileNotFoundError, PermissionError):  # gone meanwhile, or closed to us: its size was counted
            continue
        except OSError:  # too deep for a path
            return None
    return total


def remove_small(folder: Path) -> bool:
    """Remove a folder at once where that is quick: few files and no folders in it. Whether it was removed."""
    folder.chmod(0o700)
    with os.scandir(folder) as found:
        entries = list(itertools.islice(found, _FEW + 1))
    if len(entries) > _FEW or any(entry.is_dir(follow_symlinks=False) for entry in entries):
        return False
    for entry in entries:
        Path(entry.path).unlink()
    folder.rmdir()
    return True


def remove(folder: Path) -> None:
    """Remove a folder that nobody uses any more, however deep it is nested and whatever its modes are.

    Goes down and up again with one descriptor, so that no path grows long and nothing is recursive. Only what
    lies in the folder is touched: links are removed, not followed.
    """
    folder.chmod(0o700)
    below: list[str] = []
    here = os.open(folder, os.O_DIRECTORY)
    try:
        while True:
            inner = _clear(here)
            if inner is not None:
                os.chmod(inner, 0o700, dir_fd=here)
                step, name = inner, None
                below.append(inner)
            elif below:
                step, name = "..", below.pop()
            else:
                break
            there = os.open(step, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = there
            if name is not None:
                os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)
    folder.rmdir()


def _clear(folder: int) -> str | None:
    """Unlink what is no folder, up to the first entry that is one: its name, None where there is none."""
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=folder)
    return None
