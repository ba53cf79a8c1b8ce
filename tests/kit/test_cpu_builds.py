"""torch's build for CPUs, from what uv's lock says to a folder that pip is shown."""

import hashlib
import platform
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kit.cpu_builds import FOLDER, Found, choose, fetch, find_links

TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
MACHINE = platform.machine()


def lock(*files: str, digest: str = "ab" * 32) -> dict[str, Any]:
    wheels = ", ".join(
        f'{{ url = "https://builds.example/whl/cpu/{file}", hashes = {{ sha256 = "{digest}" }} }}'
        for file in files
    )
    return tomllib.loads(f'lock-version = "1.0"\n[[packages]]\nname = "torch"\nwheels = [{wheels}]\n')


def wheel(tag: str, system: str) -> str:
    return f"torch-2.13.0%2Bcpu-{tag}-{tag}-{system}.whl"


def test_the_wheel_of_this_python_and_processor_is_chosen() -> None:
    others = [
        wheel("cp39", f"manylinux_2_28_{MACHINE}"),
        wheel(TAG, "win_amd64"),
        wheel(TAG, "macosx_11_0_arm64"),
    ]
    mine = wheel(TAG, f"manylinux_2_28_{MACHINE}")
    found = choose(lock(*others, mine))
    assert found.file == mine.replace("%2B", "+") and found.url.endswith(mine) and found.sha256 == "ab" * 32
    with pytest.raises(
        ValueError, match=rf"no wheel .* for {TAG} on {MACHINE} among: torch-2\.13\.0\+cpu-cp39"
    ):
        choose(lock(*others))
    with pytest.raises(ValueError, match="among: none"):
        choose(lock())


def test_the_threaded_build_is_another_one() -> None:
    with pytest.raises(ValueError, match="no wheel"):
        choose(lock(f"torch-2.13.0%2Bcpu-{TAG}-{TAG}t-manylinux_2_28_{MACHINE}.whl"))


def test_what_came_is_checked_and_kept(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a wheel")
    found = Found("torch.whl", source.as_uri(), hashlib.sha256(b"a wheel").hexdigest())
    folder = tmp_path / FOLDER
    assert find_links(tmp_path) == []
    path = fetch(found, folder)
    assert path == folder / "torch.whl" and path.read_bytes() == b"a wheel"
    assert find_links(tmp_path) == ["--find-links", str(folder)]
    source.unlink()
    assert fetch(found, folder) == path  # it is there
    path.write_bytes(b"cut")
    with pytest.raises(ValueError, match="could not be downloaded"):
        fetch(found, folder)
    source.write_bytes(b"another wheel")
    with pytest.raises(ValueError, match="not what uv's lock says"):
        fetch(found, folder)
    assert list(folder.glob("*.part")) == []


def test_it_needs_nothing_but_python() -> None:
    """It runs before anything is installed: here without site-packages."""
    script = Path(__file__).resolve().parents[2] / "kit" / "cpu_builds.py"
    code = f"import runpy; runpy.run_path({str(script)!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
