"""Figures, page and plot from results made by hand."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning.report import figures, plot, section
from benchmarks.learning.settings import ARMS, Arm, DistillStudy

STUDY = DistillStudy(seeds=[0, 1, 2], test_problems=4, samples=2)


def run(solved: list[float], seconds: float) -> dict[str, Any]:
    return {"greedy": solved, "sampled": [value / 2 for value in solved], "cpu_seconds": seconds, "steps": 1}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    runs: dict[tuple[Arm, int], dict[str, Any]] = {}
    for seed in STUDY.seeds:
        runs["ce", seed] = run([0, 0, 0, 1], 10)
        runs["kd", seed] = run([1, 1, 0, 1] if seed else [1, 1, 1, 1], 15)
        runs["ce_more", seed] = run([0, 1, 1, seed % 2], 16 + seed)
    return figures(STUDY, run([1, 1, 1, 1], 60), run([0, 0, 0, 0], 20), runs)


def difference(found: dict[str, Any], arms: list[str], measure: str) -> dict[str, Any]:
    return next(row for row in found["differences"] if row["arms"] == arms and row["measure"] == measure)


def test_figures_by_hand(found: dict[str, Any]) -> None:
    assert found["arms"]["kd"]["greedy"] == [1.0, 0.75, 0.75]
    assert found["arms"]["kd"]["sampled"] == [0.5, 0.375, 0.375]
    assert found["arms"]["ce_more"]["cpu_seconds"] == pytest.approx(17)
    assert found["arms"]["ce_more"]["steps"] == 1050
    assert found["teacher"] == {"cpu_seconds": 60, "greedy": 1.0, "sampled": 0.5}
    assert found["base"] == {"cpu_seconds": 20, "greedy": 0.0, "sampled": 0.0}
    # Differences by seed 0.75, 0.5, 0.5: mean 7/12, standard error 1/12; t(0.975, 2) = 4.3027.
    tokens = difference(found, ["kd", "ce"], "greedy")
    assert tokens["mean"] == pytest.approx(7 / 12)
    assert tokens["t"] == pytest.approx([(7 - 4.3027) / 12, (7 + 4.3027) / 12])
    assert tokens["clear"]
    # 0.5, 0, 0.25 at equal compute: the interval holds zero.
    compute = difference(found, ["kd", "ce_more"], "greedy")
    assert compute["mean"] == pytest.approx(0.25)
    assert not compute["clear"]
    assert compute["bootstrap"][0] <= compute["mean"] <= compute["bootstrap"][1]


def test_the_page_says_what_was_found(found: dict[str, Any]) -> None:
    lines = section(found)
    assert "| KD + CE | 600 | 15 | 0.50 0.38 0.38 | 0.417 | 1.00 0.75 0.75 | 0.833 |" in lines
    verdicts = [line for line in lines if " against " in line]
    assert len(verdicts) == 4
    assert verdicts[1].startswith(
        "| KD + CE against CE (equal tokens) | greedy | +0.583 | +0.225 to +0.942 |"
    )
    assert verdicts[1].endswith("| yes |")
    assert verdicts[3].startswith("| KD + CE against CE, more steps (equal compute) | greedy | +0.250 |")
    assert verdicts[3].endswith("| no |")
    assert "At equal compute these seeds show no win of distillation on both measures." in lines
    assert max(map(len, lines)) < 140


def test_a_clear_win_is_called_one(found: dict[str, Any]) -> None:
    rows = [row | {"clear": True, "mean": 0.1} for row in found["differences"]]
    assert "At equal compute distillation wins, clear of zero." in section(found | {"differences": rows})
    rows = [row | {"clear": True, "mean": -0.1} for row in found["differences"]]
    assert any("distillation loses" in line for line in section(found | {"differences": rows}))


def test_the_plot_is_a_picture_and_the_same_each_time(found: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(found, tmp_path / "a" / "one.png")
    plot(found, tmp_path / "two.png")
    data = (tmp_path / "a" / "one.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 10_000
    assert data == (tmp_path / "two.png").read_bytes()


def test_every_arm_is_named(found: dict[str, Any]) -> None:
    assert set(found["arms"]) == set(ARMS)
