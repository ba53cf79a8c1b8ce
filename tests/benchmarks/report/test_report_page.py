"""The page of a run: what it tells, what it refuses, and that nothing in it can run or be loaded."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.report.__main__ import app
from benchmarks.report.loading import Try, read_finished, read_stories, votes_of
from benchmarks.report.page import CUT, cut, time_lines, write_page
from benchmarks.report.plots import Band, band_plot, interval_plot, step_plot
from submission.selection.statistics import Interval
from tests.benchmarks.report.folders import HOSTILE, Problem, problems_of, write_run
from tests.benchmarks.report.pages import Tags, assert_harmless, browser, dom, measure, title

__all__ = ["browser"]  # a fixture is found by its name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two contests of three problems; p0 right twice, p1 once, p2 never."""
    return write_run(
        tmp_path_factory.mktemp("runs") / "bench", problems_of([[1, 1, 0], [1, 0, 0]]), bundle=HOSTILE
    )


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return write_page(run).read_text(encoding="utf-8")


def test_the_page_tells_the_figures(page: str) -> None:
    text = " ".join("".join(Tags(page).text).split())
    assert "50.0 %" in text and "2, 1 of 3" in text  # 3 right answers of 6
    assert "3,000 tokens; stopped: attempts. Chosen by prm; the plain vote says" in text
    assert "tool call 1, 0.5 s" in text and "42" in text and "calls 1 right" in text
    assert "0.90 0.50" in text and "PRM 0.50" in text  # the least of the steps is the sample's score
    assert "2 of 2" in text and "1 of 2" in text and "0 of 2" in text
    assert "Accuracy against time" in text and "minutes of a problem" not in text  # under two minutes
    assert "1 h" in text and "contest 2: 1 right, 30 min used" in text


def test_hostile_text_is_text(page: str) -> None:
    assert_harmless(page)
    assert HOSTILE in "".join(Tags(page).text)
    assert "\ud800" not in page


def test_stories_hold_what_happened(run: Path) -> None:
    (stories,) = read_stories(read_finished(run)).values()
    assert [story.id for story in stories] == ["p0", "p1", "p2"]
    assert [[one.right for one in story.solved] for story in stories] == [
        [True, True],
        [True, False],
        [False, False],
    ]
    first = stories[1].solved[1]
    assert (first.repeat, first.answer, len(first.tries), first.source) == (1, "999", 3, "vote")
    assert first.tries[2].steps == (0.9, 0.5) and first.tries[2].calls[0].output == "42"
    assert stories[1].text == HOSTILE and stories[1].gold == "1"


def test_a_folder_without_journals_and_texts_has_its_page(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("contests", "problems.json"))
    found = write_page(tmp_path / "bare", tmp_path / "bare.html").read_text(encoding="utf-8")
    assert "tool call 1" not in found and "sample 2" in found


@pytest.mark.parametrize("name", ["problems.json", "environment.json"])
@pytest.mark.parametrize("content", ["[]", "{", "\xff"])
def test_a_damaged_file_beside_the_results_is_told(
    run: Path, tmp_path: Path, name: str, content: str
) -> None:
    shutil.copytree(run, tmp_path / "bad")
    (tmp_path / "bad" / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        write_page(tmp_path / "bad", tmp_path / "bad.html")


def test_the_time_line_by_hand(run: Path) -> None:
    first, second = time_lines(read_finished(run).results, "own")
    # Of an hour: start-up 60 s, then problems from minute 1, 2, 3 on, 50 s each.
    assert first.ready == 1.67 and first.limit == 3600 and (first.right, second.right) == (2, 1)
    assert [(block.left, block.width, block.right) for block in first.blocks] == [
        (1.67, 1.39, True),
        (3.33, 1.39, True),
        (5.0, 1.39, False),
    ]


def test_votes_by_hand() -> None:
    def one(answer: str | None, score: float | None) -> Try:
        return Try(0, "", answer, answer == "5", 1, 1.0, "stop", score, (), "", ())

    votes = votes_of([one("7", 0.2), one("5", 0.9), one(None, None), one("5", 0.5)])
    assert [(vote.answer, vote.count, vote.percent, vote.right) for vote in votes] == [
        ("5", 2, 67, True),
        ("7", 1, 33, False),
    ]
    assert votes[0].score == pytest.approx(0.7) and votes_of([one("5", None)])[0].score is None


def test_samples_have_curves_at_k_and_no_time_line(tmp_path: Path) -> None:
    problems = [Problem("a", 1, [[1, 2, 1, None]]), Problem("b", 2, [[2, 2, 2, 3]])]
    found = write_page(write_run(tmp_path / "run", problems, samples=4)).read_text(encoding="utf-8")
    text = " ".join("".join(Tags(found).text).split())
    assert "maj@k" in text and "prm@k" in text and "Accuracy at k samples" in text
    assert "Time line" not in text and "4 samples a problem" in text
    assert_harmless(found)


def test_long_texts_keep_both_ends() -> None:
    found = cut("a" * 60 + "b" * 60, 100)
    assert found == "a" * 50 + CUT.format(20) + "b" * 50
    assert cut("short", 5) == "short"


def test_plots_are_inline_and_the_same_each_time() -> None:
    first = step_plot({"A": [(0, 0), (1, 0.5)], "B": [(0, 0), (2, 1)]}, "tokens")
    assert first == step_plot({"A": [(0, 0), (1, 0.5)], "B": [(0, 0), (2, 1)]}, "tokens")
    band = band_plot({"pass@k": Band([1, 2], [0.2, 0.4], [0.1, 0.3], [0.3, 0.5])}, "k samples")
    rows = interval_plot({"A - B": Interval(0.1, -0.1, 0.3)}, "points", zero=True)
    for plot, label in ((first, "tokens"), (band, "k samples"), (rows, "A - B")):
        assert plot.startswith("<svg") and f">{label}</text>" in plot and "currentColor" in plot
        assert "<g id" not in plot and "<metadata" not in plot


# --- refused -----------------------------------------------------------------------------------------


def test_unfinished_runs_are_named(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "repeat": 5}))
    with pytest.raises(ValueError, match=r"unfinished run: 5 repeats were asked for, the results are of 2"):
        read_finished(folder)
    (folder / "results.json").unlink()
    with pytest.raises(ValueError, match=r"unfinished run: the command that began it continues it"):
        write_page(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        write_page(folder)


def test_damaged_folders_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no finished run"):
        write_page(tmp_path)
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "samples.parquet").write_bytes(b"not a table")
    with pytest.raises(ValueError, match="its tables cannot be read"):
        write_page(folder)
    found = CliRunner().invoke(app, [str(run), "--out", "/proc/none/page.html"])
    assert isinstance(found.exception, ValueError) and "cannot be written" in str(found.exception)


def test_the_command_writes_the_page(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [str(run), "--out", str(tmp_path / "page.html")], catch_exceptions=False)
    assert "page.html" in done.output and (tmp_path / "page.html").stat().st_size > 10_000


# --- in a browser ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_browser_lays_the_page_out_and_runs_nothing_of_it(browser: str, page: str, tmp_path: Path) -> None:
    # The hostile text works where nothing holds it back: else this test could not fail.
    control = tmp_path / "control.html"
    control.write_text(f"<title>calm</title>{HOSTILE}")
    assert title(dom(browser, control)) == "hacked"
    ours = tmp_path / "page.html"
    ours.write_text(page, encoding="utf-8")
    assert title(dom(browser, ours)).startswith("Run: ") and "hacked" in title(page)
    # The policy alone holds back what escaping would have missed.
    ours.write_text(page.replace("</main>", f"{HOSTILE}</main>"), encoding="utf-8")
    assert title(dom(browser, ours)).startswith("Run: ")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 400])
def test_everything_has_its_place_in_a_browser(browser: str, page: str, tmp_path: Path, width: int) -> None:
    found = measure(browser, page, width, tmp_path / "measured.html")
    assert found["room"] == width and found["wide"] <= width and not found["cut"]
    assert len(found["plots"]) == 2 and all(w > 250 and h > 100 for w, h in found["plots"])
    # 3 problems, 2 repeats, 3 samples of a text and a call's two, and an opinion: 6 * (3 * 3 + 1).
    assert found["texts"] == 60
    assert found["blocks"] == 2 * (1 + 3) and found["labels"] > 10
