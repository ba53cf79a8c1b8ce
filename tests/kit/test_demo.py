"""`make run` for real, with less time for the contest, and what it reuses when it is run again."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from kit import demo
from kit.models import default_model
from submission.journal import read_journal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_the_whole_way_and_what_is_reused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "kit.demo",
        "--bundle",
        str(bundle),
        "--out",
        str(out),
        "--time-limit",
        "120",
    ]
    done = subprocess.run(command, cwd=demo.ROOT, capture_output=True, text=True, timeout=1400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    frame = pl.read_parquet(out / "submission.parquet")
    gold = pl.read_csv(demo.PROBLEMS, schema_overrides={"id": pl.String})
    assert frame["id"].to_list() == gold["id"].to_list()
    right = int((frame["answer"] == gold["answer"]).sum())
    assert f"score {right} of 12" in done.stdout
    records = read_journal(out / "submission.journal.jsonl").records
    assert sum(record.get("tokens", 0) for record in records if record["type"] == "sample") > 0
    # The report says plainly what the model is worth.
    assert "solves little" in (out / "submission.report.html").read_text(encoding="utf-8")
    assert (out / "submission.report.html").as_uri() in done.stdout

    stamps = {path: path.stat().st_mtime_ns for path in bundle.rglob("*") if path.is_file()}
    model = default_model()
    demo._bundle(model, bundle)
    demo._environment(bundle, demo.ROOT / "build" / "demo-env")
    assert capsys.readouterr().out.count("stands") == 2
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*") if path.is_file()} == stamps
    # A damaged bundle is not reused.
    (bundle / "contest.toml").write_text("")
    assert not demo._stands(bundle)
