"""The snapshot is what was there at submission: changed and new files with it, ignored ones not."""

import json
import subprocess
from pathlib import Path

import pytest

from kit.launch import snapshot


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", *who, *arguments]
    subprocess.run(command, cwd=root, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for name, text in {
        "kit/a.py": "1",
        "kit/gone.py": "1",
        "submission/b.py": "2",
        "tests/c.py": "3",
        ".gitignore": "*.log\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def files(folder: Path) -> dict[str, str]:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in found.items() if name != snapshot.ABOUT}


def test_changed_and_new_files_go_along_ignored_ones_do_not(root: Path, tmp_path: Path) -> None:
    (root / "kit" / "a.py").write_text("changed")
    (root / "kit" / "new.py").write_text("new")
    (root / "kit" / "big.log").write_text("ignored")
    (root / "kit" / "gone.py").unlink()
    taken = snapshot.take(tmp_path / "launch", root)
    assert files(taken.folder) == {"kit/a.py": "changed", "kit/new.py": "new", "submission/b.py": "2"}
    assert taken.changed == ("kit/a.py", "kit/gone.py", "kit/new.py")
    about = json.loads((taken.folder / snapshot.ABOUT).read_text())
    assert about == {"commit": taken.commit, "changed": list(taken.changed)}
    assert len(taken.commit) == 40 and str(taken).endswith("with 3 changed or new files)")


def test_the_same_code_has_one_copy_and_later_changes_do_not_reach_it(root: Path, tmp_path: Path) -> None:
    first = snapshot.take(tmp_path / "launch", root)
    assert snapshot.take(tmp_path / "launch", root) == first
    (root / "kit" / "a.py").write_text("later")
    second = snapshot.take(tmp_path / "launch", root)
    assert second.folder != first.folder
    assert files(first.folder)["kit/a.py"] == "1" and files(second.folder)["kit/a.py"] == "later"
    assert {path.name for path in (tmp_path / "launch").iterdir()} == {first.folder.name, second.folder.name}


def test_without_git_all_but_caches_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "installed"
    for name in ("kit/a.py", "kit/__pycache__/a.pyc", "submission/b.py", "other/c.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    taken = snapshot.take(tmp_path / "launch", root)
    assert set(files(taken.folder)) == {"kit/a.py", "submission/b.py"}
    assert str(taken) == f"{taken.folder.name} (not under git)"


def test_no_code_and_data_among_the_code_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no code to take along"):
        snapshot.take(tmp_path / "launch", tmp_path / "nothing")
    monkeypatch.setattr(snapshot, "_LARGEST", 4)
    (root / "kit" / "data.bin").write_text("12345")
    with pytest.raises(ValueError, match=r"kit/data\.bin alone .* name data in \.gitignore"):
        snapshot.take(tmp_path / "launch", root)


def test_the_kits_own_snapshot_holds_what_jobs_need() -> None:
    names = snapshot.listed()
    assert {"kit/train.py", "submission/contest.py", "kit/recipes/grpo_cpu.toml", "pyproject.toml"} <= set(
        names
    )
    assert not any(name.startswith(("tests/", "docs/", "runs/")) for name in names)


def test_what_the_packager_keeps_is_the_checkouts_for_every_copy(root: Path, tmp_path: Path) -> None:
    taken = snapshot.take(tmp_path / "launch", root)
    (taken.folder / "build" / "made").write_text("by one copy")
    (root / "kit" / "a.py").write_text("later")
    second = snapshot.take(tmp_path / "launch", root)
    assert (second.folder / "build" / "made").read_text() == "by one copy"
    assert (root / "build" / "made").is_file() and second.folder != taken.folder
