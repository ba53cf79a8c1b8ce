"""Runs side by side from their folders: the verdict in the terminal and on the page, and what is refused."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.compare.__main__ import app
from benchmarks.compare.pooling import pool
from benchmarks.report.loading import read_finished
from tests.benchmarks.report.folders import HOSTILE, problems_of, write_run
from tests.benchmarks.report.pages import Tags, assert_harmless


def compare(*folders: Path, out: Path, options: tuple[str, ...] = ()) -> str:
    arguments = [*map(str, folders), "--out", str(out), *options]
    return CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "160"}).output


def refused(*folders: Path, options: tuple[str, ...] = ()) -> str:
    with pytest.raises(ValueError) as found:
        compare(*folders, out=Path("/proc/none/page.html"), options=options)
    return str(found.value)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """12 problems: the first run is right on 3 of them, the second on all."""
    folder = tmp_path_factory.mktemp("runs")
    bad = write_run(folder / "bad", problems_of([[0] * 9 + [1] * 3] * 2), settings=["a.b=1", "c.d=1"])
    good = write_run(
        folder / "good", problems_of([[1] * 12] * 2), settings=["a.b=1", "c.d=2"], bundle=HOSTILE
    )
    return bad, good


def test_the_page_says_what_to_submit(runs: tuple[Path, Path], tmp_path: Path) -> None:
    said = compare(*runs, out=tmp_path / "page.html")
    assert "Submit B: 100.0 % right on 12 problems, 75.0 points" in said
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert_harmless(page)
    text = " ".join("".join(Tags(page).text).split())
    assert "Submit B: 100.0 % right on 12 problems, 75.0 points" in text
    assert "B = good" in text and "c.d=2" in text and "a.b=1" not in text  # what all share is not told
    assert "better on 9 problems and worse on 0 (p 0.004)" in text
    assert '<td class="wrong">0 of 2</td><td class="right">2 of 2</td>' in page


def test_the_page_says_that_the_data_cannot_tell(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", problems_of([[1, 1, 0, 0]]))
    second = write_run(tmp_path / "second", problems_of([[1, 0, 1, 1]]))
    said = compare(first, second, out=tmp_path / "page.html")
    assert "The data cannot tell B and A apart. B is 25.0 points" in said
    assert 'class="verdict open"' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_problems_of_the_training_data_are_left_out_of_all(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", problems_of([[1, 1, 0, 0]]), contaminated={"own": ["p0"]})
    second = write_run(tmp_path / "second", problems_of([[1, 0, 1, 1]]))
    found = pool([read_finished(first), read_finished(second)])
    assert found.problems == (("own", "p1"), ("own", "p2"), ("own", "p3")) and found.dropped == 1
    assert [one.right.tolist() for one in found.entries] == [[[1, 0, 0]], [[0, 1, 1]]]
    assert "1 problems were in a run's training data" in compare(first, second, out=tmp_path / "page.html")
    third = write_run(
        tmp_path / "third",
        problems_of([[1, 1, 0, 0]]),
        contaminated={"own": ["p0", "p1", "p2", "p3"]},
    )
    assert "nothing is left to compare" in refused(first, third)


def test_samples_without_a_limit_are_compared(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", problems_of([[1, 1, 0, 0]], 4), samples=4)
    second = write_run(tmp_path / "second", problems_of([[1, 0, 1, 1]], 4), samples=4)
    compare(first, second, out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "4 samples a problem" in page and "maj@k" in page
    assert_harmless(page)


def test_troubles_are_told(runs: tuple[Path, Path], tmp_path: Path) -> None:
    broken = write_run(tmp_path / "broken", problems_of([[1] * 12] * 2))
    results = json.loads((broken / "results.json").read_text())
    results["contests"][0]["faults"] = ["engine: out of memory"]
    results["figures"]["own"]["unanswered"] = [2, 0]
    (broken / "results.json").write_text(json.dumps(results))
    said = compare(runs[0], broken, out=tmp_path / "page.html")
    assert "B: fault: engine: out of memory" in said and "B: 2 answers are the default" in said
    assert "out of memory" in (tmp_path / "page.html").read_text(encoding="utf-8")


# --- refused -----------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_named(runs: tuple[Path, Path], tmp_path: Path) -> None:
    bad, good = runs
    assert "1 runs: name 2 to 26 folders" in refused(bad)
    assert "is named twice" in refused(bad, good, bad)
    assert "holds no finished run" in refused(bad, tmp_path)
    assert "set 'aime' is not in all runs; in all are own" in refused(bad, good, options=("--set", "aime"))
    other = write_run(tmp_path / "other", problems_of([[1] * 12] * 2), time_limit=60.0)
    assert "time_limit is 3600.0 and 60.0" in refused(good, other)
    fewer = write_run(tmp_path / "fewer", problems_of([[1] * 11] * 2))
    assert "set own has other problems in" in refused(good, fewer)
    renamed = write_run(tmp_path / "renamed", problems_of([[1] * 12] * 2), name="else")
    assert "the runs have no set in common" in refused(good, renamed)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "repeat": 9}))
    assert f"{other} holds an unfinished run" in refused(good, other)
