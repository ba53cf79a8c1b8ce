"""Building: what a bundle holds, that it is the same each time, and that an older one is never lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as run_with
from hypothesis import strategies as st

import submission
from kit.package import copying, swap
from kit.package.build import build
from kit.package.contents import git_state, plan, settings_toml
from kit.package.targets import Target
from submission.bundle import Bundle, quick_check, verify
from submission.checkpoint import inspect
from submission.preflight import check_release
from submission.settings import ContestSettings, profile_path
from tests.kit.package.made import make_bundle, make_checkpoint, make_wheel, make_wheelhouse, tree

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model", shards=2)


def test_a_bundle_holds_what_the_contest_needs(model: Path, tmp_path: Path) -> None:
    house = make_wheelhouse(tmp_path / "wheels", make_wheel(tmp_path / "wheels"))
    out = make_bundle(tmp_path / "b", model, house, kaggle_user="someone")
    assert verify(out) == []
    opened = Bundle.open(out)
    paths = {entry.path for entry in opened.manifest.entries}
    assert {
        "contest.toml",
        "dataset-metadata.json",
        "requirements.txt",
        "licenses/model/LICENSE",
        "licenses/wheels.json",
        "model/model-00001-of-00002.safetensors",
        "model/model.safetensors.index.json",
        "notebook/aimo-submission.ipynb",
        "notebook/kernel-metadata.json",
        "submission/bundle.py",
        "submission/profiles/aimo3.toml",
        "wheels/smallthing-1.0-py3-none-any.whl",
    } <= paths
    assert "model/README.md" not in paths
    sha = house.wheels[0].sha256
    assert (out / "requirements.txt").read_text() == f"smallthing==1.0 --hash=sha256:{sha}\n"
    assert json.loads((out / "licenses/wheels.json").read_text()) == [
        {"name": "smallthing", "version": "1.0", "license": "MIT"}
    ]
    data = opened.manifest.data
    assert data["target"] == Target.local().name
    assert data["wheels"] is True
    assert data["project"]["version"] == submission.__version__
    assert data["model"]["architecture"] == "LlamaForCausalLM"
    assert {"path": "model/README.md", "reason": "not a file that the engines read"} in data["left_out"]


def test_the_shipped_code_is_the_tested_code(model: Path, tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "b", model)
    source = Path(submission.__file__).parent
    expected = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {
        name: data
        for name, (_, data) in tree(out / "submission").items()
        if (out / "submission" / name).is_file()
    }
    assert shipped == expected


def test_a_bundles_code_runs_alone(model: Path, tmp_path: Path) -> None:
    """`import submission` works with nothing but the bundle on the path, and leaves nothing in it."""
    out = make_bundle(tmp_path / "b", model)
    code = (
        "from submission import bundle as b; print(b.__file__.startswith(sys.argv[1]), b.verify(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", f"import sys; sys.path.insert(0, sys.argv[1]); {code}", str(out)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout == "True []\n"


def test_modes_are_the_same_whatever_the_source_and_the_umask(model: Path, tmp_path: Path) -> None:
    (model / "config.json").chmod(0o600)
    (model / "tokenizer.json").chmod(0o777)
    before = os.umask(0o077)
    try:
        out = make_bundle(tmp_path / "b", model)
    finally:
        os.umask(before)
    modes = {path.lstat().st_mode & 0o7777 for path in out.rglob("*") if path.is_file()}
    folders = {path.lstat().st_mode & 0o7777 for path in [out, *out.rglob("*")] if path.is_dir()}
    assert (modes, folders) == ({0o644}, {0o755})


@pytest.mark.parametrize("wait", [0, pytest.param(1.1, marks=pytest.mark.slow)])
def test_two_builds_are_byte_identical(model: Path, tmp_path: Path, wait: float) -> None:
    house = make_wheelhouse(tmp_path / "wheels", make_wheel(tmp_path / "wheels"))
    first = make_bundle(tmp_path / "a", model, house)
    time.sleep(wait)  # a timestamp in seconds would now differ
    copied = shutil.copytree(model, tmp_path / "elsewhere" / "model")
    second = make_bundle(tmp_path / "deep" / "b", copied, house)
    assert tree(first) == tree(second)


def test_the_settings_read_back(model: Path, tmp_path: Path) -> None:
    settings = ContestSettings.load(profile_path("aimo2"), ["solver.num_agents=16", "solver.max_attempts=16"])
    out = build(plan(inspect(model), settings, Target.local(), None), tmp_path / "b").folder
    assert ContestSettings.load(out / "contest.toml") == settings


@run_with(deadline=None)
@given(st.text(), st.integers(0, 10**6), st.floats(0, 5), st.sampled_from([None, True, False]))
def test_any_settings_read_back(prompt: str, seed: int, temperature: float, eager: bool | None) -> None:
    data = {
        "solver": {"system_prompt": prompt, "seed": seed, "temperature": temperature},
        "engine": {"enforce_eager": eager},
    }
    settings = ContestSettings.parse(data, "test")
    assert ContestSettings.parse(tomllib.loads(settings_toml(settings)), "text") == settings


def test_settings_that_toml_cannot_say_are_refused() -> None:
    settings = ContestSettings.parse({"solver": {"agree": None}}, "test")
    with pytest.raises(ValueError, match="TOML, which has no null"):
        settings_toml(settings)


def test_an_older_bundle_is_replaced(model: Path, tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "b", model)
    old = Bundle.open(out).manifest.digest
    (out / "submission" / "__pycache__").mkdir()
    make_bundle(out, model, kaggle_user="someone")
    assert verify(out) == []
    assert Bundle.open(out).manifest.digest != old
    assert sorted(item.name for item in tmp_path.iterdir()) == [".b.lock", "b", "model"]


def test_folders_that_killed_builds_left_are_removed(model: Path, tmp_path: Path) -> None:
    stale = tmp_path / ".b.build-abc"
    stale.mkdir()
    (stale / "half").write_bytes(b"x")
    bystander = tmp_path / ".bb.build-abc"
    bystander.mkdir()
    make_bundle(tmp_path / "b", model)
    assert not stale.exists()
    assert bystander.exists()


def test_where_the_system_has_no_exchange_two_renames_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, out = tmp_path / "new", tmp_path / "out"
    for folder in (new, out):
        folder.mkdir()
        (folder / folder.name).write_bytes(b"")
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    swap.exchange(new, out)
    assert [item.name for item in out.iterdir()] == ["new"]
    assert [item.name for item in new.iterdir()] == ["out"]


def test_an_exchange_is_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, out = tmp_path / "new", tmp_path / "out"
    new.mkdir()
    out.mkdir()
    (new / "file").touch()
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("two renames"))
    swap.exchange(new, out)
    assert [item.name for item in out.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: out.write_bytes(b"x"), "is a file"),
        (lambda out: out.symlink_to(out.parent), "symbolic link"),
        (lambda out: (out.mkdir(), (out / "mine").write_bytes(b"x")), "is not a bundle"),
        (lambda out: (out.mkdir(), (out / "manifest.json").write_bytes(b"{}")), "will not be replaced"),
    ],
)
def test_an_output_that_is_no_bundle_is_refused(
    model: Path, tmp_path: Path, make: object, message: str
) -> None:
    assert callable(make)
    make(tmp_path / "b")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=message):
        make_bundle(tmp_path / "b", model)
    assert tree(tmp_path) == before


def test_an_empty_folder_may_be_the_output(model: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert verify(make_bundle(tmp_path / "b", model)) == []


def test_a_users_file_in_an_old_bundle_is_not_lost(model: Path, tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "b", model)
    (out / "my-notes.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"my-notes\.txt.*move them away"):
        make_bundle(out, model)
    assert (out / "my-notes.txt").read_text() == "dear"


def test_an_output_that_holds_the_model_is_refused(model: Path, tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "b", model)
    with pytest.raises(ValueError, match="which the bundle is made from"):
        make_bundle(out, out / "model")


def test_a_second_build_of_the_same_output_waits_its_turn(model: Path, tmp_path: Path) -> None:
    with (
        swap.replacing(tmp_path / "b") as folder,
        pytest.raises(ValueError, match="another build is writing"),
    ):
        assert folder.is_dir()
        make_bundle(tmp_path / "b", model)


def test_too_little_disk_is_said_before_anything_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ValueError, match="MB free and the bundle needs"):
        make_bundle(tmp_path / "b", model)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model"]


def test_a_disk_that_fills_up_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real, small file system, where mounting is allowed; its size is hidden from the check beforehand."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no mount command: {error}")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        out = make_bundle_in(disk, make_checkpoint(tmp_path / "small"), monkeypatch)
        before = tree(disk)
        big = make_checkpoint(tmp_path / "big", rows=100_000)
        with pytest.raises(ValueError, match=r"disk is full .* model/model\.safetensors"):
            make_bundle_in(disk, big, monkeypatch)
        assert verify(out) == []
        assert tree(disk) == before
    finally:
        subprocess.run([str(shutil.which("umount")), str(disk)], check=True)


def make_bundle_in(disk: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(copying, "MARGIN", -(1 << 40))
    return make_bundle(disk / "b", model)


@pytest.mark.slow
def test_a_file_over_the_limit_leaves_the_old_bundle(model: Path, tmp_path: Path) -> None:
    """The same where nothing can be mounted: the process may write no file over 64 KiB."""
    out = make_bundle(tmp_path / "b", model)
    before = tree(out)
    big = make_checkpoint(tmp_path / "big", rows=10_000)
    done = run_build(
        big, out, before="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))"
    )
    assert done.wait(60) == 2
    assert tree(out) == before
    assert not list(tmp_path.glob(".b.build-*"))


def run_build(model: Path, out: Path, *, before: str = "") -> subprocess.Popen[bytes]:
    """A build in a process of its own; exit code 2 when it is refused."""
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.kit.package.made import make_bundle
{before}
try:
    make_bundle(Path({str(out)!r}), Path({str(model)!r}))
except ValueError as error:
    sys.exit(2)
"""
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_killed_build_leaves_the_old_bundle_and_the_next_cleans_up(model: Path, tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "b", model)
    before = tree(out)
    big = make_checkpoint(tmp_path / "big", rows=200_000)
    # Slowed down, so that the kill surely comes in the middle of the copy.
    slow = "import time; from kit.package import copying; old = copying.copy_step; copying.STEP = 1 << 16\n"
    slow += "copying.copy_step = lambda *files: count if (count := old(*files)) < 1 << 16 else time.sleep(60)"
    process = run_build(big, out, before=slow)
    try:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in tmp_path.glob(".b.build-*/model/model.safetensors")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert verify(out) == []
    assert tree(out) == before
    assert len(list(tmp_path.glob(".b.build-*"))) == 1
    make_bundle(out, big)
    assert verify(out) == []
    assert not list(tmp_path.glob(".b.build-*"))


def test_a_failure_in_the_middle_removes_the_unfinished_bundle(model: Path, tmp_path: Path) -> None:
    planned = plan(inspect(model), ContestSettings(), Target.local(), None)
    with (model / "model-00001-of-00002.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="changed since it was checked"):
        build(planned, tmp_path / "b")
    assert sorted(item.name for item in tmp_path.iterdir()) == [".b.lock", "model"]


def test_a_wheel_that_changed_in_the_cache_is_refused(model: Path, tmp_path: Path) -> None:
    house = make_wheelhouse(tmp_path / "wheels", make_wheel(tmp_path / "wheels"))
    path = house.folder / house.wheels[0].file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="changed since it was checked"):
        make_bundle(tmp_path / "b", model, house)


def test_git_is_asked_only_about_this_checkout(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    nested = ROOT / "kit"
    assert git_state(nested) is None


def test_the_size_check_sees_a_wrong_size_in_a_real_bundle(model: Path, tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "b", model)
    os.truncate(out / "model" / "model-00001-of-00002.safetensors", 100)
    assert [found.path for found in quick_check(out)] == ["model/model-00001-of-00002.safetensors"]


def test_a_bundle_of_before_can_be_opened_verified_and_judged(model: Path, tmp_path: Path) -> None:
    """Keys were added to the manifest since; its version tells a form that cannot be read."""
    out = make_bundle(tmp_path / "b", model)
    manifest = json.loads((out / "manifest.json").read_text())
    for key in ("rules", "not_rehearsed_here"):
        del manifest[key]
    for key in ("released", "provenance"):
        del manifest["model"][key]
    manifest["files"] = [entry for entry in manifest["files"] if entry["path"] != "sbom.cdx.json"]
    (out / "sbom.cdx.json").unlink()
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert verify(out) == []
    rules = ContestSettings().rules.model_copy(update={"released_before": "2026-03-15"})
    assert check_release(rules, manifest).ok
    make_bundle(out, model)  # and replaced
    (out / "manifest.json").write_text(json.dumps({**manifest, "version": 3}))
    with pytest.raises(
        ValueError, match=r"version 3 is not 1, the one this code reads.*build the bundle again"
    ):
        Bundle.open(out)


def test_what_a_draft_model_leaves_out_is_told_as_its_own(model: Path, tmp_path: Path) -> None:
    draft = make_checkpoint(tmp_path / "draft")
    for folder in (model, draft):
        (folder / "training_args.bin").write_bytes(b"pickled")
    planned = plan(inspect(model), ContestSettings(), Target.local(), None, draft=inspect(draft))
    told = [note["path"] for note in planned.manifest["left_out"]]
    names = ("README.md", "training_args.bin")
    assert told == [f"{folder}/{name}" for folder in ("draft", "model") for name in names]
    assert "draft/model.safetensors" in [item.path for item in planned.items]
