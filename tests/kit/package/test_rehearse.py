"""The rehearsal on a small bundle whose code needs no engine; the real one is run by `make run`."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest

from kit.package import offline, rehearse
from kit.package.interpreter import find_python, why_not_here
from kit.package.offline import why_not_cut, why_not_mounted
from kit.package.play import check_answers
from kit.package.rehearse import PLACE, Record, check_start, rehearse_bundle
from kit.package.targets import Target
from submission.bundle import verify
from submission.settings import ContestSettings
from tests.kit.package.acting import make_acting_bundle
from tests.kit.package.made import make_bundle, make_checkpoint, tree

needs_mounts = pytest.mark.skipif(
    bool(why_not_cut() or why_not_mounted()),
    reason=f"this machine does not let a bundle be mounted: {why_not_cut() or why_not_mounted()}",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return make_acting_bundle(tmp_path_factory.mktemp("built"), patch)


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """Each test's own, to be damaged."""
    return shutil.copytree(built, tmp_path / "b")


def rehearsed(bundle: Path, problem: str = 'What is "40, + 2"?') -> Record:
    return rehearse_bundle(bundle, problems=[problem, "b", "c"], python=sys.executable, time_limit=60)


def test_a_rehearsal_installs_plays_and_leaves_a_record(bundle: Path) -> None:
    before = tree(bundle)
    record = rehearsed(bundle)
    assert record.answers == [42, 42, 42]
    names = [step.name for step in record.steps]
    assert names[:3] == ["verify the bundle", "look at what it holds", "install into an empty environment"]
    assert names[-4:] == [
        "play 3 problems through the gateway",
        "check the start-up",
        "look for reaches to a network",
        "check that the bundle is unchanged",
    ]
    written: dict[str, Any] = json.loads(bundle.with_name("b.rehearsal.json").read_text())
    assert written["answers"] == [42, 42, 42]
    assert written["network"].startswith(("cut off", "NOT cut off"))
    assert written["mount"].startswith(("read-only", "NOT read-only"))
    assert (written["served_seconds"], written["ready_seconds"], written["outward"]) == (0.5, 1.5, [])
    assert 0 < written["install_seconds"] < 60
    assert written["memory_mib"] >= 0
    assert [step["outcome"] for step in written["steps"]][-1] == "nothing written into it"
    assert verify(bundle) == []
    assert tree(bundle) == before


@pytest.mark.slow
@needs_mounts
def test_the_bundle_lies_elsewhere_and_its_own_place_is_empty(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILT", str(bundle))
    monkeypatch.setattr(offline, "KEPT", (*offline.KEPT, "BUILT"))
    with pytest.raises(ValueError, match=rf"LIES AT \S+/{PLACE} AND \[\]"):
        rehearsed(bundle, "where")


@pytest.mark.slow
def test_a_failed_rehearsal_leaves_no_record_of_an_earlier_one(bundle: Path) -> None:
    old = bundle.with_name("b.rehearsal.json")
    old.write_text("{}")
    with pytest.raises(ValueError, match=r"exit code 1.*\n(.*\n)*.*no answer"):
        rehearsed(bundle, "crash")
    assert not old.exists()


@pytest.mark.slow
def test_answers_that_no_model_gave_fail_the_rehearsal(bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"the model wrote nothing, every answer is the default"):
        rehearsed(bundle, "silence")


@pytest.mark.slow
@needs_mounts
def test_a_run_that_writes_into_the_bundle_fails_as_at_the_contest(bundle: Path) -> None:
    before = tree(bundle)
    with pytest.raises(ValueError, match=r"Read-only file system.*left-behind"):
        rehearsed(bundle, "scribble")
    assert tree(bundle) == before


@pytest.mark.slow
def test_where_nothing_can_be_mounted_permissions_do_and_what_was_written_is_found(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearse, "why_not_mounted", lambda: "not allowed here")
    before = tree(bundle)
    record = rehearsed(bundle)
    assert record.mount == "NOT read-only, where it was built: not allowed here"
    assert tree(bundle) == before
    # Root writes whatever the permissions say; anybody else is stopped as by a mount.
    with pytest.raises(ValueError, match=r"wrote into the bundle \(left-behind\)|Permission denied"):
        rehearsed(bundle, "scribble")


@pytest.mark.slow
def test_who_reaches_for_a_network_is_named(bundle: Path) -> None:
    record = rehearsed(bundle, "fetch")
    (attempt,) = record.outward
    assert attempt.endswith(" asked for models.example")
    assert "__main__.py" in attempt
    assert "look for reaches to a network" in [step.name for step in record.steps]


@pytest.mark.slow
def test_without_a_namespace_pythons_sockets_are_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (rehearse, offline):
        monkeypatch.setattr(module, "why_not_cut", lambda: "not allowed here")
    record = rehearsed(bundle, "fetch")
    assert record.network == "NOT cut off, Python's sockets refused: not allowed here"
    assert record.mount.startswith("NOT read-only")
    assert len(record.outward) == 1
    assert record.answers == [42, 42, 42]


def test_a_server_that_listens_too_late_fails() -> None:
    record = Record(Path("r"), "", "", "", "", "", [])
    with pytest.raises(ValueError, match="did not say when"):
        check_start(record, 900)
    record.install_seconds, record.served_seconds = 880.0, 30.0
    with pytest.raises(ValueError, match=r"listened 910 s after the start \(880 s .* waits 900 s"):
        check_start(record, 900)
    record.served_seconds = 20.0
    assert check_start(record, 900).startswith("served 900.0 s after")


def test_a_python_of_the_target_is_found_or_its_lack_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Target.local()
    assert find_python(here) == sys.executable
    other = Target(23 - here.minor, here.glibc, here.machine, here.engine)
    # A link to this Python under the other's name: found by name, refused by what it says of itself.
    (tmp_path / f"python{other.python}").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ValueError, match=rf"NOT rehearsed: the bundle is for Python {other.python} .*--python"
    ):
        find_python(other)
    assert why_not_here(other) == f"this machine has no Python {other.python} with pip"
    assert why_not_here(here) is None


def test_a_shim_for_no_python_hides_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version manager's command for a Python that is not chosen comes before the real one on PATH."""
    here = Target.local()
    other = Target(23 - here.minor, here.glibc, here.machine, here.engine)
    shims, real = tmp_path / "shims", tmp_path / "real"
    for folder in (shims, real):
        folder.mkdir()
    _command(shims / f"python{other.python}", "echo 'manager: command not found' >&2; exit 127")
    monkeypatch.setenv("PATH", f"{shims}:{real}")
    with pytest.raises(ValueError, match=r"shims.* cannot be run \(exit code 127\): manager: command"):
        find_python(other)
    assert why_not_here(other) == f"this machine has no Python {other.python} with pip"
    place = real / f"python{other.python}"
    _command(place, f"echo {other.python}.1 {place}")
    assert find_python(other) == str(place)
    assert why_not_here(other) is None


def _command(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _retarget(bundle: Path, target: str) -> None:
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    content["target"] = target
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: _flip(b / "model/model.safetensors"), r"not whole: model/model\.safetensors"),
        (lambda b: (b / "model/tokenizer.json").unlink(), r"not whole: model/tokenizer\.json"),
        (lambda b: (b / "sitecustomize.py").write_text("x"), r"not whole: sitecustomize\.py"),
        (lambda b: _retarget(b, "py312-manylinux_2_99-cpu"), "newer than this machine"),
        (lambda b: _retarget(b, "py39-x-cpu"), "pyXYZ-PLATFORM"),
        (
            lambda b: _retarget(b, f"py3{23 - sys.version_info.minor}-manylinux_2_17-cpu"),
            "name the right one with --python",
        ),
    ],
)
def test_a_bad_bundle_is_refused_before_the_install(
    bundle: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(bundle)
    with pytest.raises(ValueError, match=message):
        rehearse_bundle(bundle, python=sys.executable, time_limit=60)


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has an NVIDIA driver")
def test_a_cuda_bundle_is_not_rehearsed_on_a_cpu(bundle: Path) -> None:
    _retarget(bundle, f"py3{sys.version_info.minor}-manylinux_2_28-cuda")
    with pytest.raises(ValueError, match="no NVIDIA driver"):
        rehearse_bundle(bundle, python=sys.executable)


def test_what_cannot_be_rehearsed_is_said(bundle: Path, tmp_path: Path) -> None:
    bare = make_bundle(tmp_path / "bare", make_checkpoint(tmp_path / "model"))
    with pytest.raises(ValueError, match="--no-wheels"):
        rehearse_bundle(bare, python=sys.executable)
    with pytest.raises(ValueError, match="a problem is empty"):
        rehearse_bundle(bundle, problems=["a", " "], python=sys.executable)
    with pytest.raises(ValueError, match="cannot be run"):
        rehearse_bundle(bundle, python=str(tmp_path / "nopython"))
    with pytest.raises(ValueError, match="manifest"):
        rehearse_bundle(tmp_path, python=sys.executable)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["one"], "answer": [100_000]}, "outside 0..99999"),
        ({"id": ["one"], "answer": [-1]}, "outside 0..99999"),
        ({"id": ["one"], "answer": [2.5]}, "an integer"),
        ({"id": ["one"], "answer": ["7"]}, "an integer"),
        ({"id": ["one"]}, "columns id and answer"),
        ({"id": [], "answer": []}, "must have 1 rows"),
        ({"id": ["one", "one"], "answer": [1, 2]}, "must have 1 rows"),
        ({"id": ["another"], "answer": [1]}, "must answer the problems one"),
    ],
)
def test_a_wrong_submission_is_refused(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    path = tmp_path / "submission.parquet"
    polars.DataFrame(columns).write_parquet(path)
    with pytest.raises(ValueError, match=message):
        check_answers(path, ContestSettings(), ["one"])


def test_a_submission_that_is_missing_or_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "submission.parquet"
    for content in (None, b"id,answer\n"):
        if content:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=r"no readable submission\.parquet"):
            check_answers(path, ContestSettings(), ["one"])
