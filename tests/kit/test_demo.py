"""`make run` for real, with less time for the contest, and what it reuses when it is run again."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kit import demo
from kit.models import default_model
from submission.journal import SampleLine, read_journal
from tests.kit.package.made import make_bundle, make_checkpoint


class Commands:
    """Stands in for `subprocess.run`: notes what was asked for, and says that it went well."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[str], dict[str, Any]]] = []

    def __call__(self, command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        self.seen.append((command, options))
        return subprocess.CompletedProcess(command, 0)


def install(_: Path, folder: Path, *__: object, on_line: Callable[[str], None], **___: object) -> Path:
    """Stands in for `install_offline`."""
    on_line("Looking [/b] in \x1b[31m[red]")
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    return folder / "bin" / "python"


@pytest.mark.slow
def test_options_are_relative_to_the_users_folder_and_the_contest_is_played_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "ROOT", tmp_path / "repository")
    monkeypatch.setattr(demo, "why_not_cut", lambda: "not in this test")
    make_bundle(tmp_path / "b", make_checkpoint(tmp_path / "model"))
    monkeypatch.setattr(demo, "default_model", lambda: tmp_path / "model")
    monkeypatch.setattr(demo, "install_offline", install)
    commands = Commands()
    monkeypatch.setattr(subprocess, "run", commands)
    monkeypatch.setenv("PYTHONPATH", f"more{os.pathsep}")
    demo.demo(Path("b"), Path("o"), 60.0)
    (build, build_options), (contest, _) = commands.seen
    assert build[build.index("--out") + 1] == str(tmp_path / "b")
    assert build[1] == "-P"
    # No empty part: it would mean the working folder.
    assert build_options["env"]["PYTHONPATH"] == f"{tmp_path / 'repository'}{os.pathsep}{tmp_path / 'more'}"
    assert contest[contest.index("--bundle") + 1] == str(tmp_path / "b")
    assert contest[contest.index("--out") + 1] == str(tmp_path / "o" / "submission.parquet")
    assert "--fresh" in contest
    assert not (tmp_path / "build").exists()


@pytest.mark.slow
def test_names_with_markup_are_shown_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, bundle = tmp_path / "r[/b]:smile:", tmp_path / "b[/b]"
    monkeypatch.setattr(demo, "ROOT", root)
    monkeypatch.setattr(demo, "why_not_cut", lambda: "refused [/b]")
    model = make_checkpoint(tmp_path / "model")
    make_bundle(bundle, model)

    monkeypatch.setattr(demo, "install_offline", install)
    commands = Commands()
    monkeypatch.setattr(subprocess, "run", commands)
    for _ in range(2):
        demo._bundle(model, bundle)
        demo._environment(bundle, root / "env")
    shown = capsys.readouterr().out
    assert len(commands.seen) == 1
    for text in (f"{bundle} stands and", f"{root / 'env'} stands, installed", "NOT cut off (refused [/b])"):
        assert text in shown


@pytest.mark.slow
@pytest.mark.timeout(1500)
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
        "75",
    ]
    done = subprocess.run(command, cwd=demo.ROOT, capture_output=True, text=True, timeout=1400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    frame = pl.read_parquet(out / "submission.parquet")
    gold = pl.read_csv(demo.PROBLEMS, schema_overrides={"id": pl.String})
    assert frame["id"].to_list() == gold["id"].to_list()
    right = int((frame["answer"] == gold["answer"]).sum())
    assert f"score {right} of 12" in done.stdout
    samples = read_journal(out / "submission.journal.jsonl").of(SampleLine)
    assert sum(sample.tokens for sample in samples) > 0
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
