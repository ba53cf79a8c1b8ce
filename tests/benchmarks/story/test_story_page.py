"""The page of the whole story: what it tells, what it refuses, and how a real browser lays it out."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.report.rendering import spell_bytes
from benchmarks.story.__main__ import app
from submission.cli import run
from tests.benchmarks.report.folders import HOSTILE, problems_of, write_run
from tests.benchmarks.report.pages import (
    Tags,
    assert_harmless,
    browser,
    complaints,
    dom,
    measure,
    title,
)
from tests.benchmarks.story.bundles import PRM, SOLVER, write_bundle, write_rehearsal

__all__ = ["browser"]  # a fixture is found by its name

STAGES = ("small", "teacher", "traces", "distill", "eval_distill", "grpo", "eval_grpo", "steps", "prm")
MORE_STAGES = ("eval_prm", "package", "rehearse", "contest")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phases of 20 problems, a contest, a bundle and a record of stages; all texts are hostile."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_run(folder / "distilled", problems_of([[1] * 5 + [0] * 15], 2), samples=2)
    write_run(folder / "grpo", problems_of([[1] * 15 + [0] * 5], 2), samples=2)
    write_run(folder / "prm", problems_of([[1] * 15 + [0] * 5], 2), samples=2, knowing=True)
    write_run(folder / "contest", problems_of([[1, 1, 0]]), bundle=HOSTILE)
    bundle = write_bundle(folder / "bundle", target=HOSTILE, quantization={"solver": SOLVER, "prm": PRM})
    write_rehearsal(bundle, network=HOSTILE)
    stages = [
        {
            "name": name,
            "after": [HOSTILE],
            "command": HOSTILE,
            "started": f"2026-01-02T03:{number:02d}:00Z",
            "seconds": 60.0,
            "skipped": name == "small",
            "cpu_seconds": 90.0,
        }
        for number, name in enumerate((*STAGES, *MORE_STAGES, "<i>page"))
    ]
    (folder / "stages.json").write_text(json.dumps({"stages": stages, "seconds": 800.0}))
    return folder


def options(folder: Path, out: Path, *more: str) -> list[str]:
    """A phase's label is anybody's text, and matplotlib would read $ in it as mathematics."""
    return [
        *("--out", str(out), "--phase", f"$x_{{1}}$={folder / 'distilled'}"),
        *("--phase", f"<b>GRPO&={folder / 'grpo'}", "--phase", f"PRM={folder / 'prm'}", *more),
    ]


def everything(folder: Path) -> list[str]:
    return [
        *("--contest", str(folder / "contest"), "--bundle", str(folder / "bundle")),
        *("--stages", str(folder / "stages.json"), "--note", "Small <i>models</i>."),
    ]


@pytest.fixture(scope="module")
def written(folder: Path) -> tuple[str, str]:
    """What the command says, and the page."""
    out = folder / "index.html"
    said = CliRunner().invoke(app, options(folder, out, *everything(folder)), catch_exceptions=False).output
    return said, out.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """Of all elements, with a space between them."""
    return " ".join(" ".join(Tags(page).text).split())


def test_the_page_tells_the_story(written: tuple[str, str]) -> None:
    said, page = written
    text = text_of(page)
    for line in (
        "<b>GRPO& adds +50.0 points [",
        "] to maj@2",
        "PRM leaves pass@1 and maj@2 as before on every problem",
    ):
        assert line in said and line in text
    assert "Small <i>models</i>." in text
    assert "$x_{1}$ → <b>GRPO& → PRM → bundle → contest. 20 problems (own), 2 samples each" in text
    assert "25.0 → 75.0 %" in text and "PRM-weighted@2" in text
    assert "2 of 3 right in the contest, 21 to 94 %" in text
    assert "4.51 kB the bundle, 2 wheels; models 8 kB → 3.5 kB" in text
    assert "13 min 20 s wall-clock of 13 stages (1 more taken over); 19 min 30 s of CPU" in text
    assert "Taken over from an earlier run, since nothing they read had changed: 1 stage, 1 min" in text
    assert "perplexity 1.5 to 1.51" in text and "Rehearsed. Installed in 32 s, served 1.2 s" in text
    assert "contest 1: 2 right, 30 min used" in text and "p2: 999" in text
    assert "3,000 tokens; stopped: attempts" in text and "PRM 0.50" in text  # every problem, to be opened
    # In the plot, labels are what they are called.
    assert ">$x_{1}$</text>" in page and ">&lt;b&gt;GRPO&amp;</text>" in page


def test_hostile_text_is_text(written: tuple[str, str]) -> None:
    assert_harmless(written[1])
    assert HOSTILE in "".join(Tags(written[1]).text)


def test_what_is_not_given_is_not_shown(folder: Path, tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "page.html"), "--phase", f"GRPO={folder / 'grpo'}"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert_harmless(page)
    text = text_of(page)
    assert "75.0 % pass@1" in text and "GRPO. 20 problems" in text
    for word in ("bundle", "The contest", "wall-clock", "What each phase adds", "PRM"):
        assert word not in text, word
    assert 'id="note"' not in page


def test_troubles_come_first(folder: Path, tmp_path: Path) -> None:
    broken = write_run(tmp_path / "broken", problems_of([[1] * 20], 2), samples=2)
    results = json.loads((broken / "results.json").read_text())
    results["figures"]["own"]["missing"] = 3
    results["contests"][0]["faults"] = ["engine: out of memory"]
    (broken / "results.json").write_text(json.dumps(results))
    write_rehearsal(write_bundle(tmp_path / "bundle"), manifest="0")
    arguments = ["--out", str(tmp_path / "page.html"), "--bundle", str(tmp_path / "bundle")]
    CliRunner().invoke(app, [*arguments, "--phase", f"A={broken}"], catch_exceptions=False)
    text = text_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "A: 3 samples failed or never were; they count as wrong" in text
    assert "A: fault: engine: out of memory" in text
    assert "Rehearsal: the record is of another build" in text and "not quantized" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--phase", "again"), "--phase 'again': expected LABEL=FOLDER"),
        (("--contest", "grpo"), "grpo holds samples without a limit: --contest is a run with --time-limit"),
        (("--bundle", "grpo"), "cannot be read as a bundle's manifest"),
        (("--stages", "none.json"), "none.json cannot be read"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, str],
    message: str,
) -> None:
    out = tmp_path / "page.html"
    value = more[1] if more[0] == "--phase" else str(folder / more[1])
    monkeypatch.setattr(sys, "argv", ["story", *options(folder, out), more[0], value])
    with pytest.raises(SystemExit) as found:
        run(app)
    assert found.value.code == 2 and not out.exists()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "told"),
    [(0, "0 B"), (999, "999 B"), (1470, "1.47 kB"), (880_104, "880 kB"), (2_500_000_000, "2.5 GB")],
)
def test_bytes_are_spelled(size: int, told: str) -> None:
    assert spell_bytes(size) == told


# --- in a browser ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_browser_has_nothing_to_complain_of(browser: str, written: tuple[str, str], tmp_path: Path) -> None:
    ours = tmp_path / "page.html"
    ours.write_text(written[1], encoding="utf-8")
    assert complaints(browser, ours) == []
    assert title(dom(browser, ours)).startswith("From training to a scored contest")
    # What would be fetched is refused, and told: else the lines above could not fail.
    ours.write_text(written[1].replace("</main>", f"{HOSTILE}</main>"), encoding="utf-8")
    assert len(complaints(browser, ours)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_the_first_screen_tells_the_story(
    browser: str, written: tuple[str, str], tmp_path: Path, width: int
) -> None:
    found = measure(browser, written[1], width, tmp_path / "measured.html")
    assert found["room"] == width and found["wide"] <= width and not found["cut"]
    assert len(found["plots"]) == 1 and found["plots"][0][0] > 300
    assert found["blocks"] == 1 + 3 and found["labels"] >= 8
    if width == 1280:  # stages, gains, time line
        assert len(found["cards"]) == 3 and max(found["cards"]) < 900
