"""The code as it is at submission, copied, so that a job that waits for days runs what was submitted.

Taken are the files of the code's folders that git tracks or would track: changes that are not committed and
new files go along as they are, ignored ones do not. Without git it is every file but caches. A copy has the
digest of its contents as its name, so submissions of the same code share one. `build`, where the packager
keeps wheels, quantized models and an environment of its own, is the checkout's for every copy.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from submission.files import write_text

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("submission", "kit", "benchmarks", "slurm")
FILES = ("pyproject.toml", "constraints.txt", "LICENSE")
ABOUT = "SNAPSHOT.json"
BUILD = "build"
_LARGEST = 200_000_000


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code; `commit` is empty where git does not know it."""

    folder: Path
    commit: str
    changed: tuple[str, ...]

    def __str__(self) -> str:
        if not self.commit:
            return f"{self.folder.name} (not under git)"
        changes = f" with {len(self.changed)} changed or new files" if self.changed else ""
        return f"{self.folder.name} (commit {self.commit[:12]}{changes})"


def plan(within: Path, root: Path = ROOT) -> Snapshot:
    """Where `take` would copy what; writes nothing. Raises as `listed` does."""
    folder = within.absolute() / f"code-{_digest(root, listed(root))[:16]}"
    return Snapshot(folder, _git(root, "rev-parse", "HEAD"), _changed(root))


def take(within: Path, root: Path = ROOT) -> Snapshot:
    """Copy the code below `root` into a folder in `within`, unless the same is there; raises as `listed`."""
    snapshot = plan(within, root)
    if not snapshot.folder.exists():
        _copy(root, listed(root), snapshot)
    return snapshot


def listed(root: Path = ROOT) -> list[str]:
    """Names of the files that a snapshot takes, relative to `root`, sorted.

    Raises:
        ValueError: there are none, or they are too large for code.
    """
    wanted = [name for name in (*FOLDERS, *FILES) if (root / name).exists()]
    known = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *wanted)
    names = known.split("\0") if known else [str(path.relative_to(root)) for path in _walk(root, wanted)]
    found = sorted({name for name in names if name and (root / name).is_file()})
    if not found:
        raise ValueError(f"no code to take along below {root}: run from an installation of the kit")
    sizes = {name: (root / name).stat().st_size for name in found}
    if (whole := sum(sizes.values())) > _LARGEST:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ValueError(
            f"the code to take along has {whole / 1e6:,.0f} MB, {largest} alone {sizes[largest] / 1e6:,.0f}: "
            "name data in .gitignore, or keep it elsewhere"
        )
    return found


def _walk(root: Path, wanted: list[str]) -> list[Path]:
    found = []
    for name in wanted:
        place = root / name
        found += [place] if place.is_file() else [p for p in place.rglob("*") if "__pycache__" not in p.parts]
    return found


def _digest(root: Path, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        content = hashlib.sha256((root / name).read_bytes()).hexdigest()
        digest.update(f"{name}\0{content}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _changed(root: Path) -> tuple[str, ...]:
    status = _git(root, "status", "--porcelain", "-z", "--", *FOLDERS, *FILES)
    return tuple(line[3:] for line in status.split("\0") if line[2:3] == " ")


def _copy(root: Path, names: list[str], snapshot: Snapshot) -> None:
    """Under another name first: a folder of the right name is whole."""
    snapshot.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".code-", dir=snapshot.folder.parent) as made:
        copy = Path(made) / "code"
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)
        about = {"commit": snapshot.commit, "changed": list(snapshot.changed)}
        write_text(copy / ABOUT, json.dumps(about, indent=1) + "\n")
        if (root / BUILD).is_dir() or os.access(root, os.W_OK):
            (root / BUILD).mkdir(exist_ok=True)
            (copy / BUILD).symlink_to((root / BUILD).resolve(), target_is_directory=True)
        try:
            copy.rename(snapshot.folder)
        except OSError:
            if not snapshot.folder.exists():  # else another submission was faster, with the same files
                raise


def _git(root: Path, *arguments: str) -> str:
    """What git says, empty where there is none or it does not keep this folder."""
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],  # noqa: S607  # the user's own git
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=60,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except OSError:
        return ""
    return done.stdout.rstrip("\n") if done.returncode == 0 else ""
