"""The rehearsal on a small bundle whose code needs no engine; the real one is run by `make run`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest

from kit.package import contents
from kit.package.rehearse import check_answer, rehearse_bundle
from submission.bundle import verify
from submission.settings import ContestSettings
from tests.kit.package.made import make_bundle, make_checkpoint, make_wheel, make_wheelhouse, tree

# Reads the csv, writes the parquet that the wheel below knows how to make, as the real command line does.
CONTEST = """
import csv, os, sys, smallthing
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
row, = csv.DictReader(open(options["--problems"], newline=""))
print("solving", row["problem"], "in", options["--time-limit"], flush=True)
if row["problem"] == "crash":
    sys.exit("no answer")
if row["problem"] == "scribble":
    open(os.path.join(options["--bundle"], "left-behind"), "w").close()
smallthing.write(options["--out"], row["problem"])
"""


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "main.py").write_text(CONTEST)
    real = [item for item in contents._source_files() if item[0] in {"__init__.py", "bundle.py"}]
    monkeypatch.setattr(contents, "_source_files", lambda: [*real, ("__main__.py", tmp_path / "main.py")])
    table = tmp_path / "answer.parquet"
    polars.DataFrame({"id": ["rehearsal"], "answer": [42]}).write_parquet(table)
    source = f"def write(path, _):\n    open(path, 'wb').write({table.read_bytes()!r})\n"
    house = make_wheelhouse(tmp_path / "wheels", make_wheel(tmp_path / "wheels", source=source))
    return make_bundle(tmp_path / "b", make_checkpoint(tmp_path / "model"), house)


def test_a_rehearsal_installs_solves_and_leaves_a_record(bundle: Path) -> None:
    before = tree(bundle)
    record = rehearse_bundle(bundle, problem='What is "40, + 2"?', python=sys.executable, time_limit=60)
    assert record.answer == 42
    names = [step.name for step in record.steps]
    assert names[:2] == ["verify the bundle", "install into an empty environment"]
    assert names[-2:] == ["solve one problem through the gateway", "check that the bundle is unchanged"]
    written: dict[str, Any] = json.loads(bundle.with_name("b.rehearsal.json").read_text())
    assert written["answer"] == 42
    assert written["network"].startswith(("cut off", "NOT cut off"))
    assert [step["outcome"] for step in written["steps"]][-1] == "nothing written into it"
    assert verify(bundle) == []
    assert tree(bundle) == before


def test_a_failed_rehearsal_leaves_no_record_of_an_earlier_one(bundle: Path) -> None:
    old = bundle.with_name("b.rehearsal.json")
    old.write_text("{}")
    with pytest.raises(ValueError, match=r"exit code 1.*\n.*no answer|no answer"):
        rehearse_bundle(bundle, problem="crash", python=sys.executable, time_limit=60)
    assert not old.exists()


def test_a_run_that_writes_into_the_bundle_fails(bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"wrote into the bundle \(left-behind\)"):
        rehearse_bundle(bundle, problem="scribble", python=sys.executable, time_limit=60)


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
    bare = make_bundle(tmp_path / "bare", tmp_path / "model")
    with pytest.raises(ValueError, match="--no-wheels"):
        rehearse_bundle(bare, python=sys.executable)
    with pytest.raises(ValueError, match="problem is empty"):
        rehearse_bundle(bundle, problem=" ", python=sys.executable)
    with pytest.raises(ValueError, match="cannot be run"):
        rehearse_bundle(bundle, python=str(tmp_path / "nopython"))
    with pytest.raises(ValueError, match="manifest"):
        rehearse_bundle(tmp_path, python=sys.executable)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["rehearsal"], "answer": [100_000]}, "outside 0..99999"),
        ({"id": ["rehearsal"], "answer": [-1]}, "outside 0..99999"),
        ({"id": ["rehearsal"], "answer": [2.5]}, "an integer"),
        ({"id": ["rehearsal"], "answer": ["7"]}, "an integer"),
        ({"id": ["rehearsal"]}, "columns id and answer"),
        ({"id": [], "answer": []}, "one row"),
        ({"id": ["rehearsal"] * 2, "answer": [1, 2]}, "one row"),
        ({"id": ["another"], "answer": [1]}, "must answer the problem"),
    ],
)
def test_a_wrong_submission_is_refused(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    path = tmp_path / "submission.parquet"
    polars.DataFrame(columns).write_parquet(path)
    with pytest.raises(ValueError, match=message):
        check_answer(path, ContestSettings())


def test_a_submission_that_is_missing_or_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "submission.parquet"
    for content in (None, b"id,answer\n"):
        if content:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=r"no readable submission\.parquet"):
            check_answer(path, ContestSettings())
