"""Obtains torch's build for CPUs, where pip is not told of a place that has it.

    python kit/cpu_builds.py 2.13.0+cpu build/cpu-builds

The package index has CUDA builds of torch only. PyTorch's own index has those for CPUs, and uv knows it: it
is asked for the wheel's address and hash, and the wheel is put into a folder that pip is shown (`FOLDER`).
Only uv and the standard library are used, since this runs before anything else is installed.
"""

import hashlib
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

FOLDER = Path("build", "cpu-builds")
"""Below the checkout; `kit.package` looks there, too."""
SECONDS = 60.0
"""Without a byte from the server."""
PIECE = 1 << 20


class Found(NamedTuple):
    """A wheel at an address."""

    file: str
    url: str
    sha256: str


def find_links(root: Path) -> list[str]:
    """pip's options for the folder, if it is there."""
    folder = root / FOLDER
    return ["--find-links", str(folder)] if folder.is_dir() else []


def ask_uv(version: str) -> Found:
    """Where torch's wheel of that version for this Python lies.

    Raises:
        ValueError: uv could not tell, or there is no such wheel.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wanted, chosen = Path(scratch, "requirements.in"), Path(scratch, "pylock.toml")
        wanted.write_text(f"torch=={version}\n", encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-deps"]
        command += ["--torch-backend", "cpu", "--only-binary", ":all:", "--python", sys.executable]
        command += ["--output-file", str(chosen), str(wanted)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"uv does not find torch {version}: {' '.join(done.stderr.split())[-600:]}")
        return choose(tomllib.loads(chosen.read_text(encoding="utf-8")))


def choose(lock: dict[str, Any]) -> Found:
    """The wheel in uv's lock that is for this Python and processor.

    Raises:
        ValueError: there is none.
    """
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheels = [wheel for package in lock.get("packages", ()) for wheel in package.get("wheels", ())]
    files = {unquote(Path(urlsplit(wheel["url"]).path).name): wheel for wheel in wheels}
    for file, wheel in files.items():
        fits = f"-{tag}-{tag}-" in file and "linux" in file and file.endswith(f"_{platform.machine()}.whl")
        if fits and (digest := wheel.get("hashes", {}).get("sha256")):
            return Found(file, wheel["url"], digest)
    named = ", ".join(files) or "none"
    raise ValueError(f"no wheel with a SHA-256 for {tag} on {platform.machine()} among: {named}")


def fetch(found: Found, folder: Path) -> Path:
    """The wheel in `folder`, downloaded unless it is there, and what its hash says.

    Raises:
        ValueError: the server failed, or sent something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / found.file
    if path.is_file() and _sha256(path) == found.sha256:
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        with urlopen(found.url, timeout=SECONDS) as answer, part.open("wb") as file:  # noqa: S310 - uv chose it
            while piece := answer.read(PIECE):
                file.write(piece)
    except OSError as error:
        raise ValueError(f"{found.url} could not be downloaded: {error}") from None
    if _sha256(part) != found.sha256:
        part.unlink()
        raise ValueError(f"{found.url} is not what uv's lock says (SHA-256); try again")
    return part.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """The command; 2 where there is no such wheel."""
    version, folder = sys.argv[1], Path(sys.argv[2])
    try:
        sys.stdout.write(f"{fetch(ask_uv(version), folder)}\n")
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
