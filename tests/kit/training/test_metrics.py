"""The metrics file: strict JSON, cut at resume, never a lost or doubled line."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.training.metrics import MetricLine, MetricsFile, read_metrics


def fill(file: MetricsFile, steps: range) -> None:
    """What a run writes: a line a step, an evaluation every second one."""
    for step in steps:
        file.write(step, {"loss": 1 / step, "tokens": step * 10}, {"seconds": os.urandom(1)[0] / 7})
        if step % 2 == 0:
            file.write(step, {"accuracy": step / 100}, kind="eval")


def without_time(path: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("time")
    return lines


def test_lines_come_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, None) as file:
        file.write(1, {"loss": 0.1, "rows": 3, "note": "é [bold]\n"}, {"seconds": 1.5})
        file.write(1, {"text": "rows dropped"}, kind="event")
    assert list(read_metrics(path)) == [
        MetricLine("train", 1, {"loss": 0.1, "rows": 3, "note": "é [bold]\n"}, {"seconds": 1.5}),
        MetricLine("event", 1, {"text": "rows dropped"}),
    ]


def test_numbers_that_are_not_finite_are_null_and_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, None) as file:
        file.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0}, {"seconds": math.inf})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line["values"] == {"a": None, "b": None, "c": None, "d": 0.0}
    assert line["nonfinite"] == {"a": "nan", "b": "inf", "c": "-inf"}
    (read,) = read_metrics(path)
    assert math.isnan(float(read.values["a"]))
    assert [read.values[name] for name in "bcd"] == [math.inf, -math.inf, 0.0]


@settings(max_examples=60, deadline=None)
@given(total=st.integers(1, 12), killed=st.integers(1, 12), saved=st.integers(0, 12), torn=st.integers(0, 40))
def test_a_resumed_runs_file_is_that_of_an_undisturbed_one(
    tmp_path_factory: pytest.TempPathFactory, total: int, killed: int, saved: int, torn: int
) -> None:
    """Killed after step `killed`, with half a line of the next, resumed from a checkpoint of step `saved`."""
    killed = min(killed, total)
    saved = min(saved, killed)
    folder = tmp_path_factory.mktemp("metrics")
    with MetricsFile(folder / "whole.jsonl", None) as file:
        fill(file, range(1, total + 1))
    with MetricsFile(folder / "cut.jsonl", None) as file:
        fill(file, range(1, killed + 1))
    with (folder / "cut.jsonl").open("ab") as raw:
        raw.write(b'{"kind": "train", "step": 99, "values": {"loss": 0.12'[:torn])
    with MetricsFile(folder / "cut.jsonl", saved or None) as file:
        fill(file, range(saved + 1, total + 1))
    assert without_time(folder / "cut.jsonl") == without_time(folder / "whole.jsonl")


def test_a_killed_process_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    child = os.fork()
    if child == 0:
        fill(MetricsFile(path, None), range(1, 50))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert [line.step for line in read_metrics(path) if line.kind == "train"] == list(range(1, 50))


def test_a_torn_last_line_is_not_there_and_a_broken_one_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, None) as file:
        fill(file, range(1, 2))
    good = path.read_bytes()
    path.write_bytes(good + good[:20])
    assert [line.step for line in read_metrics(path)] == [1]
    path.write_bytes(good + b"\0\0\0\n" + good)
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2: not JSON"):
        list(read_metrics(path))
    MetricsFile(path, 1).close()
    assert path.read_bytes() == good + good
    assert "line 2 is dropped" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '{"kind": "other", "step": 1}',
        '{"kind": "train", "step": true}',
        '{"kind": "train", "step": 1, "values": []}',
        '{"kind": "train", "step": 1, "values": {"a": null}}',
        '{"kind": "train", "step": 1, "time": {"a": "x"}}',
    ],
)
def test_other_lines_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1"):
        list(read_metrics(path))


def test_values_that_are_not_numbers_or_text_are_refused(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "m.jsonl", None) as file, pytest.raises(ValueError, match="step 3"):
        file.write(3, {"loss": object()})  # type: ignore[dict-item]


def test_a_new_run_starts_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, None) as file:
        fill(file, range(1, 4))
    MetricsFile(path, None).close()
    assert path.read_bytes() == b""
