"""Puts a finished folder in the place of an older one, so that no reader ever sees half of either."""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from submission.bundle import MANIFEST, Bundle, quick_check

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_output(out: Path) -> None:
    """ValueError unless `out` is absent, an empty folder, or a bundle with nothing else in it."""
    if out.is_symlink():
        raise ValueError(f"--out {out} is a symbolic link; name the folder that it leads to")
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder")
    if not any(out.iterdir()):
        return
    if not (out / MANIFEST).exists():
        raise ValueError(f"--out {out} holds files and is not a bundle; name a new folder or empty this one")
    try:
        Bundle.open(out)
    except ValueError as error:
        raise ValueError(f"--out {out} will not be replaced: {error}, or remove it yourself") from None
    strangers = [
        found.path
        for found in quick_check(out)
        if found.kind == "added" and "__pycache__" not in found.path.split("/")
    ]
    if strangers:
        raise ValueError(
            f"--out {out} holds files that no build put there ({', '.join(strangers[:3])}); move them away "
            "first, since the whole folder is replaced"
        )


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place when the block succeeds and is removed when it fails.

    A lock keeps a second build of the same output out; whatever folders earlier, killed builds left are
    removed first. The new content is not synced to the disk: after a power cut `verify` tells.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.build-"
    with _locked(out.parent / f".{out.name}.lock", out):
        for stale in out.parent.glob(f"{_escaped(prefix)}*"):
            shutil.rmtree(stale)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
        try:
            temporary.chmod(0o755)
            yield temporary
            exchange(temporary, out)
        finally:
            # After the exchange this is the old bundle; after a failure, the unfinished new one.
            if temporary.exists():
                shutil.rmtree(temporary)


def _escaped(text: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


@contextlib.contextmanager
def _locked(path: Path, out: Path) -> Iterator[None]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another build is writing {out}; wait for it or name another --out") from None
        yield


def exchange(new: Path, out: Path) -> None:
    """Give the folder `new` the name `out`; an older `out` is then found under the name `new`, if at all.

    In one step (renameat2 with RENAME_EXCHANGE) where the system has it, else by two renames.
    """
    if not out.exists():
        new.rename(out)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        names = os.fsencode(new), os.fsencode(out)
        if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
            raise OSError(number, os.strerror(number), str(out))
    _two_renames(new, out)


def _two_renames(new: Path, out: Path) -> None:
    # Not named like a temporary folder: if this is killed in between, no later build removes the old bundle.
    aside = out.with_name(f"{out.name}.old-{os.getpid()}")
    out.rename(aside)
    try:
        new.rename(out)
    except OSError:
        aside.rename(out)
        raise
    aside.rename(new)
