"""The quantizer's own environment: made on demand from pinned versions, once, and used by everyone after.

llm-compressor wants another compressed-tensors than every vLLM since 0.15, so the two cannot share one. pip
makes it, not uv: pip takes a CPU build of torch from its configuration where a machine has one.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kit.cpu_builds import find_links
from submission.files import write_text

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "build" / "quantize-env"
PINS = Path(__file__).with_name("constraints.txt")
READY = ".ready"
SPACE_NEEDED = 2_500_000_000
"""Bytes of free disk for a CPU build; CUDA's libraries want some 8 GB more."""
Say = Callable[[str], None]


def requirements(root: Path = ROOT) -> list[str]:
    """What is asked for by name: the project's extra `quantize`, and torch."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except OSError as error:
        raise ValueError(
            f"{root / 'pyproject.toml'} cannot be read ({error.strerror}); quantize from a checkout"
        ) from None
    return [*project["optional-dependencies"]["quantize"], "torch"]


def quantize_environment(say: Say, folder: Path = FOLDER, *, wanted: Sequence[str] | None = None) -> Path:
    """The environment's Python, made if it is not there or was made from other versions.

    Args:
        say: is given lines of progress.
        wanted: requirements in place of the project's own.

    Raises:
        ValueError: it cannot be made; what is half made is removed at the next try.
    """
    wanted = list(requirements() if wanted is None else wanted)
    python = folder / "bin" / "python"
    stamp = _stamp(wanted)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f".{folder.name}.lock"), say):
            if _is_ready(folder, stamp):
                return python
            _make(folder, wanted, say)
            write_text(folder / READY, stamp + "\n")
    except OSError as error:
        raise ValueError(f"the quantizer's environment cannot be made in {folder}: {error}") from error
    return python


def _stamp(wanted: Sequence[str]) -> str:
    """What the environment was made from: requirements, pins, and the interpreter."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = "\n".join([version, *wanted, PINS.read_text(encoding="utf-8")])
    return hashlib.sha256(text.encode()).hexdigest()


def _is_ready(folder: Path, stamp: str) -> bool:
    marker = folder / READY
    return (folder / "bin" / "python").exists() and marker.is_file() and marker.read_text().strip() == stamp


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    """One maker at a time; the system frees the lock of a killed one."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that makes the quantizer's environment")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(folder: Path, wanted: Sequence[str], say: Say) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < SPACE_NEEDED:
        raise ValueError(
            f"the quantizer's environment needs {SPACE_NEEDED / 1e9:.1f} GB in {folder.parent}, where "
            f"{free / 1e9:.1f} GB are free: make room"
        )
    say(f"making the quantizer's environment in {folder} ({', '.join(wanted)}): a minute or more, once")
    _run([sys.executable, "-m", "venv", str(folder)], say, "Python could not make a virtual environment")
    command = [str(folder / "bin" / "python"), "-P", "-m", "pip", "install", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", *find_links(ROOT), "--constraint", str(PINS)]
    command += wanted
    _run(command, say, "pip could not install the quantizer")


def _run(command: Sequence[str], say: Say, failure: str) -> None:
    """Run with each line shown as it comes; ValueError with the last ones when it fails."""
    # What is on the caller's path must not hide what is, or is not, in the new environment.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    last: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=variables,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                say(line.strip())
                last = [*last[-4:], line.strip()]
    if process.returncode:
        raise ValueError(
            f"{failure} (exit code {process.returncode}): {' | '.join(last)[-600:]}. Check the network and "
            "the configuration of the index, then run again"
        )
