"""The code that a stage can reach: whatever is imported, named or lies beside it, and nothing else."""

from pathlib import Path

import pytest

from kit.launch.closure import code_digest, code_of

ROOT = Path(__file__).parents[3]
CODE = {
    "kit/__init__.py": "",
    "kit/recipes/r.toml": "a = 1\n",
    "kit/tool/__init__.py": "",
    "kit/tool/__main__.py": "from kit.tool import work\n",
    "kit/tool/work.py": (
        "import json\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from kit import types_only\n"
        "def f():\n    import submission.late\n    return ['-m', 'kit.child'], 'kit.nowhere', 'kit says'\n"
    ),
    "kit/tool/templates/page.html": "<p>",
    "kit/child.py": "from . import near\n",
    "kit/near.py": "",
    "kit/types_only.py": "",
    "kit/other/__init__.py": "",
    "kit/other/page.py": "import kit.tool.work\n",
    "kit/whole.py": "import submission\n",
    "submission/__init__.py": "",
    "submission/late.py": "",
    "submission/aside.py": "",
    "submission/profiles/a.toml": "",
    "benchmarks/__init__.py": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in CODE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def names(root: Path, *modules: str) -> set[str]:
    return {path.as_posix() for path in code_of(root, modules)}


def test_it_follows_imports_wherever_they_stand_and_names_of_modules(root: Path) -> None:
    assert names(root, "kit.tool") == {
        "kit/__init__.py",
        "kit/child.py",
        "kit/near.py",
        "kit/tool/__init__.py",
        "kit/tool/__main__.py",
        "kit/tool/templates/page.html",
        "kit/tool/work.py",
        "submission/__init__.py",
        "submission/late.py",
        "submission/profiles/a.toml",
    }
    assert names(root, "kit.near") == {"kit/__init__.py", "kit/near.py"}
    assert names(root, "kit.none", "os.path", "-c") == set()


def test_a_package_that_is_imported_as_a_whole_counts_as_a_whole(root: Path) -> None:
    assert {"submission/aside.py", "submission/profiles/a.toml"} <= names(root, "kit.whole")


def test_only_what_is_reached_changes_the_digest(root: Path) -> None:
    before = code_digest(root, ["kit.tool"])
    for name in ("kit/other/page.py", "kit/types_only.py", "kit/recipes/r.toml", "submission/aside.py"):
        (root / name).write_text("changed = 1\n")
        assert code_digest(root, ["kit.tool"]) == before, name
    for name in ("kit/near.py", "submission/late.py", "kit/tool/templates/page.html"):
        (root / name).write_text("changed = 1\n")
        after = code_digest(root, ["kit.tool"])
        assert after != before, name
        before = after


def test_of_the_real_code_training_knows_nothing_of_pages_and_the_packager_ships_all_of_submission() -> None:
    trained = names(ROOT, "kit.distill.phase")
    assert "kit/losses/distillation.py" in trained
    assert not [name for name in trained if name.startswith(("benchmarks/", "kit/launch/", "kit/grpo/"))]
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "submission").rglob("*.py")}
    assert shipped <= names(ROOT, "kit.package")
    assert "benchmarks/report/templates/run.html" in names(ROOT, "benchmarks.run")
