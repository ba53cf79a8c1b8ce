"""The record of a pipeline: where every stage lies on the wall-clock, by hand, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.story.stages import THINNEST, Record, chart, read_record


def stage(name: str, second: int | None, seconds: float, **more: Any) -> dict[str, Any]:
    started = None if second is None else f"2026-01-02T03:00:{second:02d}+00:00"
    return {
        "name": name,
        "after": [],
        "command": f"run {name}",
        "started": started,
        "seconds": seconds,
        **more,
    }


def record(*stages: dict[str, Any], seconds: float | None = None) -> Record:
    return Record.model_validate_json(json.dumps({"stages": stages, "seconds": seconds}))


def test_stages_side_by_side_and_one_taken_over() -> None:
    found = chart(
        record(
            stage("a", 10, 10.0, cpu_seconds=12.0),
            stage("old", 1, 99.0, cpu_seconds=5.0, skipped=True),
            stage("b", 20, 20.0, cpu_seconds=20.0),
            stage("c", 25, 25.0, cpu_seconds=8.0),
            seconds=50.0,
        )
    )
    # From second 10 on: 0 to 10, 10 to 30, 15 to 40 of 50.
    assert [(bar.left, bar.width) for bar in found.bars] == [(0, 20), (0, 0), (20, 40), (30, 50)]
    assert (found.seconds, found.cpu_seconds, found.saved, found.skipped) == (50, 40, 99, 1)


def test_the_page_is_written_before_the_record_ends() -> None:
    found = chart(record(stage("a", 0, 10.0), stage("b", 10, 30.0)))
    assert found.seconds == 40 and found.bars[1].left == 25 and found.bars[1].width == 75
    assert found.cpu_seconds is None  # one does not tell


def test_what_takes_no_time_is_seen_and_stays_on_the_line() -> None:
    found = chart(record(stage("a", 0, 40.0), stage("b", 40, 0.0)))
    assert (found.bars[1].left, found.bars[1].width) == (100 - THINNEST, THINNEST)


def test_without_starts_stages_follow_each_other() -> None:
    found = chart(record(stage("a", None, 30.0), {**stage("b", None, 10.0), "started": ""}))
    assert [(bar.left, bar.width) for bar in found.bars] == [(0, 75), (75, 25)]


def test_nothing_was_run() -> None:
    found = chart(record(stage("a", None, 30.0, skipped=True), seconds=2.0))
    assert (found.seconds, found.saved, found.cpu_seconds) == (0, 30, None) and found.bars[0].width == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the file: Invalid JSON"),
        ("[]", "the file: Input should be"),
        ('{"stages": []}', "stages: Tuple should have at least 1 item"),
        ('{"stages": [{"name": "a"}]}', "stages.0.seconds: Field required"),
        ('{"stages": [{"name": "a", "seconds": -1}]}', "stages.0.seconds: Input should be greater"),
        ('{"stages": [{"name": "a", "seconds": 1, "started": "now"}]}', "stages.0.started: Input should be"),
        ('{"stages": [{"name": "a", "seconds": 1, "started": "2026-01-02T03:00:00"}]}', "stages.0.started"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "stages.json"
    path.write_text(text)
    with pytest.raises(ValueError) as found:
        read_record(path)
    assert f"--stages {path} is no pipeline's record: " in str(found.value) and message in str(found.value)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_record(tmp_path / "none.json")
