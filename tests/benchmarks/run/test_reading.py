"""Folders of runs read back: whatever is damaged is told, and no part is taken for the whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.run.reading import load_run
from tests.benchmarks.report.folders import problems_of, write_run


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", problems_of([[1, 0, 1], [1, 1, 0]]))


@pytest.fixture
def folder(played: Path, tmp_path: Path) -> Path:
    for name in ("results.json", "answers.csv"):
        (tmp_path / name).write_bytes((played / name).read_bytes())
    return tmp_path


def test_a_whole_run(folder: Path) -> None:
    assert load_run(folder).sets["own"].right.tolist() == [[1, 0, 1], [1, 1, 0]]


def last_lines_lost(text: str, lost: int) -> str:
    return "".join(text.splitlines(keepends=True)[:-lost])


def without(text: str, part: str) -> str:
    return json.dumps({key: value for key, value in json.loads(text).items() if key != part})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("results.json", lambda text: "[]", "has no repeat"),
        ("results.json", lambda text: text[:300], "holds no finished run"),
        ("results.json", lambda text: without(text, "figures"), "no figures: it is damaged, or of another"),
        ("answers.csv", lambda text: last_lines_lost(text, 1), "holds no finished run"),
        (
            "answers.csv",
            lambda text: last_lines_lost(text, 3),
            "3 problems in 1 repeats of set own, and .* 2$",
        ),
        ("answers.csv", lambda text: last_lines_lost(text, 6), "0 problems in 0 repeats of set own"),
        ("answers.csv", lambda text: text.replace("true", "maybe"), "holds no finished run"),
        ("answers.csv", lambda text: text.replace("right", "wrong"), "holds no finished run"),
        ("answers.csv", lambda text: "", "holds no finished run"),
    ],
)
def test_damage_is_told(folder: Path, name: str, change: Callable[[str], str], message: str) -> None:
    path = folder / name
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        load_run(folder)
