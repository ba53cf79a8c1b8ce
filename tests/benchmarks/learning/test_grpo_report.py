"""Figures, page and plot of the study of GRPO from results made by hand."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning.grpo_report import figures, largest_fall, plot, section
from benchmarks.learning.grpo_settings import FULL, ArmSettings, GrpoStudy, PolicySettings

STUDY = GrpoStudy(
    policy=PolicySettings(steps=30, minibatches=4),
    arms={
        FULL: ArmSettings(label="all of it"),
        "one": ArmSettings(label="1 update", change={"minibatches": 1}),
    },
    seeds=[3, 4],
    test_problems=4,
    samples=4,
    evaluate_every=10,
)


def start(sampled: list[float]) -> dict[str, Any]:
    shares = {"sampled": 0.25, "greedy": 0.5}
    return {
        **{"greedy": [0, 0, 1, 1], "sampled": sampled, "cpu_seconds": 30, "steps": 400},
        **{"rounds": [{"steps": 400, **shares}], "validation": shares},
    }


def run(sampled: list[float], seconds: float, curve: list[float]) -> dict[str, Any]:
    points = [
        {"step": 10 * (place + 1), "sampled": value, "greedy": value} for place, value in enumerate(curve)
    ]
    training = {
        "reward": [0.5] * 30,
        "groups_replaced": [2.0] * 15 + [4.0] * 15,
        "groups_without_signal": [0.0] * 30,
        "clip_low_fraction": [0.01] * 30,
        "clip_high_fraction": [0.0] * 30,
    }
    return {
        **{"greedy": [1, 1, 1, 1], "sampled": sampled, "cpu_seconds": seconds, "steps": 30},
        **{"curve": points, "training": training},
    }


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    starts = {3: start([0.0, 0.25, 0.25, 0.5]), 4: start([0.25, 0.25, 0.25, 0.25])}
    return figures(
        STUDY,
        starts,
        {
            (FULL, 3): run([0.5, 0.5, 0.5, 0.5], 100, [0.3, 0.4, 0.5]),
            (FULL, 4): run([0.5, 0.5, 0.5, 1.0], 120, [0.3, 0.2, 0.5]),
            ("one", 3): run([0.5, 0.5, 0.25, 0.25], 90, [0.3, 0.3, 0.3]),
            ("one", 4): run([0.5, 0.5, 0.5, 0.5], 90, [0.2, 0.1, 0.3]),
        },
    )


def test_figures_by_hand(found: dict[str, Any]) -> None:
    first, second = found["arms"][FULL]["seeds"]
    assert (first["sampled"]["before"], first["sampled"]["after"]) == (0.25, 0.5)
    assert first["sampled"]["gain"] == pytest.approx(0.25)
    # Gains of 0.5, 0.25, 0.25, 0 by problem: the mean of four draws goes from 0 to 0.5.
    low, high = first["sampled"]["interval"]
    assert 0 < low < 0.25 < high < 0.5
    assert second["sampled"]["gain"] == pytest.approx(0.375)
    # Gains of 1, 1, 0, 0.
    assert first["greedy"]["gain"] == pytest.approx(0.5)
    assert found["arms"][FULL]["sampled_gain"][0] == pytest.approx(0.3125)
    assert found["arms"][FULL]["updates"] == 4
    assert found["arms"]["one"]["updates"] == 1
    # The start counts: 0.25, 0.3, 0.2, 0.5 falls by 0.1, and 0.25, 0.2, 0.1, 0.3 by 0.15.
    assert second["fall"] == pytest.approx(0.1)
    assert found["arms"]["one"]["seeds"][1]["fall"] == pytest.approx(0.15)
    assert (first["replaced"], first["clipped"]) == (3.0, [pytest.approx(0.01), 0.0])
    # 0.125 on either seed: no spread, so clear of zero.
    sampled = next(row for row in found["differences"] if row["measure"] == "sampled")
    assert (sampled["arm"], sampled["by_seed"]) == ("one", [0.125, 0.125])
    assert sampled["t"] == pytest.approx([0.125, 0.125])
    assert sampled["clear"]
    greedy = next(row for row in found["differences"] if row["measure"] == "greedy")
    assert greedy["mean"] == 0 and not greedy["clear"]


def test_the_largest_fall() -> None:
    assert largest_fall([0.1, 0.2, 0.3]) == 0
    assert largest_fall([0.5, 0.2, 0.6, 0.4]) == pytest.approx(0.3)


def test_the_page_says_what_was_found(found: dict[str, Any]) -> None:
    lines = section(found)
    text = " ".join(lines)
    rows = [line for line in lines if line.startswith("| all of it |")]
    assert rows[0].startswith("| all of it | 3 | 100 | 0.250 | 0.500 | +0.250 | +0.")
    assert rows[0].endswith("| 0.00 |")
    assert rows[1].startswith("| all of it | 4 | 120 | 0.250 | 0.625 | +0.375 | +0.")
    assert any(line.startswith("| | all | 110 | 0.250 | 0.562 | **+0.312** |") for line in lines)
    assert "Met: the least gain is +0.250, the most CPU-s 120." in text
    assert "1.00% of the tokens were clipped below and 0.00% above" in text
    assert "Dynamic sampling replaced 3.0 groups a batch." in text
    assert any(line.startswith("| 1 update | sampled | +0.12 +0.12 | +0.125 |") for line in lines)
    against = [line for line in lines if line.startswith("| 1 update | ")]
    assert [line.rsplit(" | ", 1)[1] for line in against if "ampled" in line or "reedy" in line] == [
        "yes |",
        "no |",
    ]


@pytest.mark.parametrize("change", [{"cpu_seconds": 186}, {"sampled": {"gain": 0.19}}])
def test_an_aim_that_is_missed_is_said_to_be(found: dict[str, Any], change: dict[str, Any]) -> None:
    full = found["arms"][FULL]
    rows = [{**full["seeds"][0], **change}, full["seeds"][1]]
    if "sampled" in change:
        rows[0]["sampled"] = full["seeds"][0]["sampled"] | change["sampled"]
    changed = found | {"arms": found["arms"] | {FULL: full | {"seeds": rows}}}
    assert "Not met: " in " ".join(section(changed))


def test_the_plot_is_a_picture_and_the_same_each_time(found: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(found, tmp_path / "a" / "one.png")
    plot(found, tmp_path / "two.png")
    data = (tmp_path / "a" / "one.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 10_000
    assert data == (tmp_path / "two.png").read_bytes()
