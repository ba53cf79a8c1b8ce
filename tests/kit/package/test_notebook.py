"""The notebook and Kaggle's metadata: valid, the same each time, and run for real on a fake mount."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from kit.package.notebook import check_user, dataset_metadata, kernel_metadata, notebook
from tests.kit.package.acting import act
from tests.kit.package.made import make_bundle, make_checkpoint, make_wheel, make_wheelhouse, tree


def code_cells() -> list[str]:
    return [cell["source"] for cell in json.loads(notebook())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_valid_and_always_the_same() -> None:
    raw = notebook()
    document = json.loads(raw)
    nbformat.validate(document)
    cells = document["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert cells[0]["source"].startswith("# AIMO submission\n")
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert notebook() == raw


def test_every_code_cell_compiles_and_the_clock_starts_in_the_first() -> None:
    cells = code_cells()
    for cell in cells:
        compile(cell, "cell", "exec")
    assert "AIMO_STARTED_AT" in cells[0]


def run_cells(
    cells: list[str], mount: Path, working: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run cells in a process of their own with `mount` for Kaggle's input and `working` for its output."""
    working.mkdir(exist_ok=True)
    (working / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "AIMO_INPUT": str(mount), "TMPDIR": str(working / "tmp"), **variables}
    return subprocess.run(
        [sys.executable, "-c", "\n\n".join(cells)],
        cwd=working,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


MOUNTS = [
    "aimo-bundle",
    "datasets/someone/aimo-bundle",
    "datasets/someone/aimo-bundle/versions/3",
    "models/someone/aimo/other/default/1",
    "notebooks/someone/the-notebook-that-built-it/bundles/aimo",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, to be copied to where a test wants it."""
    folder = tmp_path_factory.mktemp("built")
    return make_bundle(folder / "b", make_checkpoint(folder / "model"))


@pytest.mark.parametrize("place", MOUNTS)
def test_the_bundle_is_found_in_every_layout(built: Path, tmp_path: Path, place: str) -> None:
    bundle = shutil.copytree(built, tmp_path / "input" / place)
    other = tmp_path / "input" / "competitions" / "contest"
    other.mkdir(parents=True)
    (other / "manifest.json").write_text("[1]")
    done = run_cells(code_cells()[:2], tmp_path / "input", tmp_path / "working")
    assert done.stdout.startswith(f"bundle {bundle}: model for py3"), done.stderr


def test_no_bundle_or_two_are_said(built: Path, tmp_path: Path) -> None:
    mount = tmp_path / "input"
    (mount / "competitions" / "contest").mkdir(parents=True)
    done = run_cells(code_cells()[:2], mount, tmp_path / "working")
    assert done.returncode != 0
    assert "0 bundles below" in done.stderr
    assert "competitions/contest" in done.stderr
    shutil.copytree(built, mount / "one")
    shutil.copytree(built, mount / "two")
    done = run_cells(code_cells()[:2], mount, tmp_path / "working")
    assert "2 bundles below" in done.stderr
    done = run_cells(code_cells()[:2], mount, tmp_path / "working", AIMO_BUNDLE=str(mount / "two"))
    assert done.returncode == 0


SERVER = """
import json, os, sys, smallthing
print("arguments", sys.argv[1:])
print("wheel", smallthing.VALUE)
print("started", float(os.environ["AIMO_STARTED_AT"]) > 0)
open("submission.parquet", "w").close()
try:
    import foreign
except ImportError:
    print("the image's own packages are out of sight")
sys.exit(int(os.environ.get("EXIT_CODE", "0")))
"""


@pytest.fixture(scope="module")
def acting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with one real wheel, whose server only prints what it sees."""
    folder = tmp_path_factory.mktemp("acting")
    (folder / "server.py").write_text(SERVER)
    house = make_wheelhouse(folder / "wheels", make_wheel(folder / "wheels"))
    with pytest.MonkeyPatch.context() as patch:
        act(patch, folder / "server.py")
        return make_bundle(folder / "b", make_checkpoint(folder / "model"), house)


@pytest.fixture
def mounted(acting: Path, tmp_path: Path) -> Path:
    """That bundle where Kaggle puts it, each test's own."""
    return shutil.copytree(acting, tmp_path / "input" / "aimo-bundle")


def test_the_whole_notebook_installs_and_serves(mounted: Path, tmp_path: Path) -> None:
    before = tree(mounted)
    image = tmp_path / "image"
    image.mkdir()
    (image / "foreign.py").write_text("")
    working = tmp_path / "working"
    done = run_cells(code_cells(), mounted.parent, working, PYTHONPATH=str(image))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"arguments ['--bundle', '{mounted}', '--serve']" in done.stdout
    assert "wheel 42" in done.stdout
    assert "started True" in done.stdout
    assert "the image's own packages are out of sight" in done.stdout
    assert (working / "submission.parquet").exists()
    assert tree(mounted) == before


def test_a_failing_server_fails_the_notebook(mounted: Path, tmp_path: Path) -> None:
    done = run_cells(code_cells(), mounted.parent, tmp_path / "working", EXIT_CODE="3")
    assert done.returncode != 0
    assert "failed with exit code 3" in done.stderr


def test_a_missing_wheel_fails_the_notebook_at_once(mounted: Path, tmp_path: Path) -> None:
    next((mounted / "wheels").glob("*.whl")).unlink()
    done = run_cells(code_cells(), mounted.parent, tmp_path / "working")
    assert done.returncode != 0
    assert "the bundle is not whole: wheels/smallthing" in done.stderr


def test_a_bundle_for_another_python_fails_the_notebook(mounted: Path, tmp_path: Path) -> None:
    path = mounted / "manifest.json"
    path.write_text(path.read_text().replace(f'"py3{sys.version_info.minor}-', '"py39-'))
    done = run_cells(code_cells(), mounted.parent, tmp_path / "working")
    assert "build it again with --target py3" in done.stderr


def test_the_kernels_metadata() -> None:
    content = json.loads(kernel_metadata(check_user("someone"), "aimo3", gpu=True))
    assert content["id"] == "someone/aimo-submission"
    assert content["code_file"] == "aimo-submission.ipynb"
    assert (content["enable_gpu"], content["enable_internet"]) == (True, False)
    assert content["competition_sources"] == ["ai-mathematical-olympiad-progress-prize-3"]
    assert content["dataset_sources"] == ["someone/aimo-bundle"]
    assert content["machine_shape"] == "NvidiaH100"
    own = json.loads(kernel_metadata(check_user(None), "my-own-contest", gpu=False))
    assert own["id"].startswith("INSERT_USERNAME_HERE/")
    assert own["competition_sources"] == []
    assert "machine_shape" not in own


def test_the_datasets_metadata_keeps_the_clients_limits() -> None:
    content = json.loads(dataset_metadata("someone"))
    assert content["id"] == "someone/aimo-bundle"
    assert 6 <= len(content["title"]) <= 50
    assert len(content["licenses"]) == 1


@pytest.mark.parametrize("user", ["", "a/b", "../x", "a b", "-a", "a" * 60, "a\n"])
def test_a_user_that_is_no_name_is_refused(user: str) -> None:
    with pytest.raises(ValueError, match="--kaggle-user"):
        check_user(user)
