"""Trackers: the real packages, without a network."""

import importlib
import importlib.util
import json
import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.training.trackers import Trackers, check_trackers

pytest.importorskip("torch")

CONFIG = {"optimizer": {"lr": 1e-5}, "seed": 3}


def run(folder: Path, names: list[str], steps: range, resume_step: int | None = None) -> Trackers:
    trackers = Trackers(names, project="aimo", name="", folder=folder, config=CONFIG, resume_step=resume_step)
    for step in steps:
        trackers.write(step, {"loss": 1 / step, "note": "not a number"})
    return trackers


def test_none_is_fine(tmp_path: Path) -> None:
    trackers = run(tmp_path, [], range(1, 3))
    assert trackers.active == []
    trackers.close()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_told_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"'wandb'.*pip install -e '\.\[trackers\]'"):
        check_trackers(["wandb"])
    with pytest.raises(ValueError, match="'mlflow' is none of tensorboard, wandb, trackio"):
        check_trackers(["mlflow"])


@pytest.mark.slow
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, ["tensorboard"], range(1, 6)).close()
    # Resumed from step 3: steps 4 and 5 are done again, and shown once.
    trackers = run(tmp_path, ["tensorboard"], range(4, 8), resume_step=3)
    trackers.write(6, {"accuracy": 0.5, "bad": math.nan}, kind="eval")
    trackers.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "eval/accuracy", "eval/bad"}
    losses = [(item.step, item.value) for item in events.Scalars("train/loss")]
    assert losses == [(step, pytest.approx(1 / step)) for step in range(1, 8)]
    assert [(item.step, item.value) for item in events.Scalars("eval/accuracy")] == [(6, 0.5)]
    assert math.isnan(events.Scalars("eval/bad")[0].value)
    text = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text.removeprefix("```json\n").removesuffix("\n```")) == CONFIG


def wandb_records(data: bytes) -> list[bytes]:
    """LevelDB's log format after a 7-byte header: blocks of 32 KiB with checksum, length, kind, data."""
    records, place, block = [b""], 7, 1 << 15
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        records[-1] += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            records.append(b"")
    return records[:-1]


@pytest.mark.slow
def test_wandb_offline_keeps_one_run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    record_type = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path / "a", ["wandb"], range(1, 4)).close()
    first = {path.stem for path in tmp_path.glob("a/wandb/offline-run-*/run-*.wandb")}
    run(tmp_path / "a", ["wandb"], range(3, 5), resume_step=2).close()
    assert {path.stem for path in tmp_path.glob("a/wandb/offline-run-*/run-*.wandb")} == first
    run(tmp_path / "b", ["wandb"], range(1, 2)).close()
    assert {path.stem for path in tmp_path.glob("b/wandb/offline-run-*/run-*.wandb")} != first
    rows: list[dict[str, Any]] = []
    for data in wandb_records(min(tmp_path.glob("a/wandb/offline-run-*/run-*.wandb")).read_bytes()):
        record = record_type()
        record.ParseFromString(data)
        if record.HasField("history"):
            rows.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
    assert [(row["step"], row["train/loss"]) for row in rows] == [(step, 1 / step) for step in range(1, 4)]


@pytest.mark.slow
def test_trackio_reads_what_was_written(tmp_path: Path) -> None:
    """In a process of its own: trackio fixes its folder when it is imported."""
    pytest.importorskip("trackio")
    import os
    import subprocess

    script = """
import sys, math
from pathlib import Path
from kit.training.trackers import Trackers
for steps, resume in ((range(1, 4), None), (range(4, 6), 3)):
    trackers = Trackers(["trackio"], project="aimo", name="try", folder=Path(sys.argv[1]), config={"a": 1},
                        resume_step=resume)
    for step in steps:
        trackers.write(step, {"loss": 1 / step, "bad": math.nan})
    assert trackers.active == ["trackio"]
    trackers.close()
import trackio
(run,) = trackio.Api().runs("aimo")
from trackio.sqlite_storage import SQLiteStorage
logs = SQLiteStorage.get_logs("aimo", run.name)
print("LOGS", [(row["step"], row["train/loss"]) for row in logs])
"""
    environment = os.environ | {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
    }
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logged = next(line for line in done.stdout.splitlines() if line.startswith("LOGS"))
    assert logged == f"LOGS {[(step, 1 / step) for step in range(1, 6)]}"


def broken(message: str) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError(message)

    return fail


def test_a_tracker_that_fails_is_told_once_and_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    trackers = run(tmp_path, ["tensorboard"], range(1, 2))
    (dropped,) = trackers._trackers
    monkeypatch.setattr(SummaryWriter, "flush", broken("the network is away"))
    for step in range(2, 5):
        trackers.write(step, {"loss": 0.5})
    assert trackers.active == []
    assert caplog.text.count("the network is away") == 1
    trackers.close()
    monkeypatch.undo()
    dropped.close()  # its thread would go on writing


def test_a_tracker_that_does_not_start_ends_a_new_run_but_not_a_resumed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("a file where the folder goes")
    with pytest.raises(ValueError, match=r"logging\.trackers: tensorboard does not start"):
        run(tmp_path, ["tensorboard"], range(1, 2))
    assert run(tmp_path, ["tensorboard"], range(6, 7), resume_step=5).active == []
    assert "tensorboard does not start and is left out" in caplog.text
