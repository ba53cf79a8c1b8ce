"""The peers' environments: their pins, and how they are made, by real pip from a folder of wheels."""

import subprocess
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.peers import environments
from benchmarks.peers.environments import ENVIRONMENTS, STAMP, Environment, find_environment, install
from benchmarks.shared import ROOT


def pins_of(path: Path) -> list[Requirement]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def here(pins: list[Requirement]) -> dict[str, str]:
    """Versions on this interpreter and system."""
    return {
        canonicalize_name(pin.name): str(pin.specifier)
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_pins_hold_all_that_is_asked_for_in_our_own_versions(name: str) -> None:
    environment = find_environment(name)
    pins = pins_of(environment.pins)
    assert all([part.operator for part in pin.specifier] == ["=="] for pin in pins)
    found, ours = here(pins), here(pins_of(ROOT / "constraints.txt"))
    for ask in map(Requirement, environment.asks):
        assert ask.specifier.contains(found[canonicalize_name(ask.name)].removeprefix("=="))
    # A ratio compares code, not releases.
    assert {package: version for package, version in found.items() if ours[package] != version} == {}


def test_no_file_of_pins_is_left_over() -> None:
    assert {path.stem for path in environments.PINS.glob("*.txt")} == set(ENVIRONMENTS)


def test_one_of_the_engines_builds_is_installed() -> None:
    wanted = ENVIRONMENTS["vllm"].wanted()
    assert sum(ask.startswith("vllm") for ask in wanted) == 1
    assert [ask for ask in wanted if not ask.startswith("vllm")] == ["torch", "transformers"]


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="no environment 'tlr'; there are: math_verify, trl, "):
        find_environment("tlr")


def write_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@pytest.mark.slow
def test_an_environment_is_made_once_and_anew_when_its_pins_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1.0", "2.0"):
        write_wheel(tmp_path / "wheels", "tinypeer", version)
        write_wheel(tmp_path / "wheels", "troublemaker", version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(environments, "PINS", tmp_path)
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "made")
    peer = Environment("tiny", ("tinypeer", "troublemaker"), removes=("troublemaker",))

    def said(code: str) -> str:
        command = [str(peer.python), "-I", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    peer.pins.write_text("tinypeer==1.0\n")
    assert install(peer)
    assert said("import tinypeer; print(tinypeer.VERSION)") == "1.0"
    # It has its own packages only: neither ours nor what it was told to remove.
    seen = "import importlib.util as u; print([bool(u.find_spec(n)) for n in ('rich', 'troublemaker')])"
    assert said(seen) == "[False, False]"
    assert not install(peer)

    peer.pins.write_text("tinypeer==3.0\n")
    with pytest.raises(ValueError, match=r"(?s)'tiny' could not be installed.*Cannot install tinypeer"):
        install(peer)
    # What failed half-way counts for nothing.
    assert not peer.is_installed()
    peer.pins.write_text("tinypeer==2.0\n")
    assert install(peer)
    assert said("import tinypeer; print(tinypeer.VERSION)") == "2.0"
    (peer.folder / STAMP).unlink()
    assert not peer.is_installed()
