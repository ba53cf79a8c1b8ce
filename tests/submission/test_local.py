"""Local contests in two real processes, with recorded samples in the model's place.

What is refused before a process is started is asked of the command line in this one.
"""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil
import pytest
from rich.console import Console

from submission.__main__ import app
from submission.engines.replay import Recorded, write_recording
from submission.gateway.rehearsal import Row
from submission.journal import Journal, ProblemLine, read_journal
from submission.local import Outputs, _known, _only_one, _socket, write_submission
from submission.setup import resolve
from tests.command import Said, call
from tests.submission.virtual import boxed
from tests.tiny import make_tiny_checkpoint

ROOT = Path(__file__).parents[2]


class Contest:
    """A folder with problems and recorded samples, and the command that plays them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out" / "submission.parquet"
        self.problems = folder / "problems.csv"
        self.problems.write_text("id,problem,answer\na,What is 1+1?,2\nb,What is 2+2?,4\nc,What is 3+3?,7\n")
        self.record({"a": [boxed(2, 0.2)], "b": [boxed(4, 0.2), boxed(5, 0.3)], "c": [boxed(6, 0.1)]})

    def record(self, recording: dict[str, list[Recorded]]) -> None:
        write_recording(self.folder / "samples.jsonl", recording)

    def options(self, *options: str) -> list[str]:
        return [
            *("--problems", str(self.problems), "--out", str(self.out)),
            *("--time-limit", "60", "--num-agents", "2", "--set", "engine.kind=replay"),
            *("--set", f"engine.recording={self.folder / 'samples.jsonl'}", *options),
        ]

    def call(self, *options: str) -> Said:
        """In this process, whose age is not the contest's: for what is refused before it starts."""
        with contextlib.chdir(self.folder):
            return call(app, *self.options(*options))

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "submission", *self.options(*options)]

    def run(self, *options: str, **more: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **more}
        return subprocess.run(
            self.command(*options),
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, problem: str, process: "subprocess.Popen[str]") -> None:
        deadline = time.monotonic() + 60
        while problem not in self.problems_begun():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)

    def problems_begun(self) -> list[str]:
        journal = read_journal(self.out.with_suffix("").with_name("submission.journal.jsonl"))
        return [line.id for line in journal.of(ProblemLine)]


@pytest.fixture
def contest(tmp_path: Path) -> Contest:
    return Contest(tmp_path)


def test_a_whole_contest(contest: Contest) -> None:
    done = contest.run()
    assert done.returncode == 0, done.stderr
    frame = pl.read_parquet(contest.out)
    assert frame.to_dicts() == [{"id": "a", "answer": 2}, {"id": "b", "answer": 4}, {"id": "c", "answer": 6}]
    assert frame.schema["answer"] == pl.Int64
    assert "score 2 of 3" in done.stdout
    report = (contest.folder / "out" / "submission.report.html").read_text(encoding="utf-8")
    assert "2 / 3" in report and "What is 3+3?" in report
    assert "http" not in report.replace("http-equiv", "")  # nothing is fetched


@pytest.mark.slow
def test_strange_ids_and_texts_in_another_order_as_csv(contest: Contest, tmp_path: Path) -> None:
    """Ids are no markup, model text is no HTML, and temporary files may lie in a long path."""
    names = ("a[/b]", "b", "c")
    contest.problems.write_text("id,problem,answer\n" + "".join(f"{name},What?,2\n" for name in names))
    hostile = [Recorded("<script>alert(1)</script>\ud800 \\boxed{2}", 5, 0.1)]
    contest.record({"a[/b]": hostile, "b": hostile, "c": hostile})
    contest.out = contest.folder / "s.csv"
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    done = contest.run("--shuffle", "1", TMPDIR=str(deep))
    assert done.returncode == 0, done.stderr
    frame = pl.read_csv(contest.out)
    assert tuple(sorted(frame["id"].to_list())) == names != tuple(frame["id"].to_list())
    assert frame["answer"].to_list() == [2, 2, 2]
    assert "a[/b]: 2 right" in done.stdout and "a[/b]" in done.stdout.split("┡")[1]
    report = (contest.folder / "s.report.html").read_text(encoding="utf-8")
    assert "<script>" not in report and "&lt;script&gt;" in report


def test_a_sockets_path_is_short_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with _socket() as path:
        assert len(os.fsencode(path)) <= 107


@pytest.mark.slow
def test_a_run_in_which_nothing_answered_says_so_loudly(contest: Contest) -> None:
    contest.record({name: [Recorded("no idea", 5, 0.1)] for name in "abc"})
    done = contest.run()
    assert done.returncode == 0 and "NO MODEL ANSWERED" in done.stdout
    assert pl.read_parquet(contest.out)["answer"].to_list() == [0, 0, 0]


@pytest.mark.slow
def test_a_killed_server_ends_the_run_and_the_same_command_continues(contest: Contest) -> None:
    contest.record({"a": [boxed(2, 0.1)], "b": [boxed(4, 2)], "c": [boxed(6, 0.1)]})
    with contest.start() as process:
        contest.wait_for("b", process)
        (server,) = psutil.Process(process.pid).children()
        server.send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1 and "SERVER_CONNECTION_FAILED" in stderr
    assert not contest.out.exists()
    done = contest.run()
    assert done.returncode == 0 and "1 answers known" in done.stdout
    assert pl.read_parquet(contest.out)["answer"].to_list() == [2, 4, 6]
    # The answer that was known keeps the votes that it was found by.
    assert re.search(r"a .* 2: 2 .* 160 ", done.stdout)
    # A finished contest is not continued: the next one starts afresh.
    assert "known" not in contest.run().stdout


@pytest.mark.slow
def test_fresh_forgets_an_interrupted_contest(contest: Contest) -> None:
    contest.record({"a": [boxed(2, 0.1)], "b": [boxed(4, 2)], "c": [boxed(6, 0.1)]})
    with contest.start() as process:
        contest.wait_for("b", process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "known" not in contest.run("--fresh").stdout


@pytest.mark.slow
def test_a_second_contest_with_the_same_output_is_refused(contest: Contest) -> None:
    contest.record({name: [boxed(2, 3)] for name in "abc"})
    with contest.start() as process:
        contest.wait_for("a", process)
        second = contest.run()
        assert second.returncode == 2 and "another contest is writing" in second.stderr
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
def test_samples_that_all_fail_are_a_failed_run(contest: Contest) -> None:
    contest.record({"another problem": [boxed(2, 0.1)]})
    done = contest.run()
    assert done.returncode == 1 and "fault: every sample failed" in done.stdout
    assert pl.read_parquet(contest.out)["answer"].to_list() == [0, 0, 0]


@pytest.mark.slow
def test_no_process_outlives_a_killed_gateway(contest: Contest) -> None:
    contest.record({name: [boxed(2, 30)] for name in "abc"})
    with contest.start() as process:
        contest.wait_for("a", process)
        (server,) = psutil.Process(process.pid).children()
        process.kill()
        process.communicate()
    server.wait(timeout=30)
    assert not server.is_running()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--time-limit", "0"], "rules.time_limit"),
        (["--time-limit", "-3"], "rules.time_limit"),
        (["--set", "solver.num_agnts=3"], "did you mean 'num_agents'"),
        (["--set", "solver"], "key=value"),
        (["--out", "result.txt"], ".parquet or .csv"),
        (["--out", "folder.parquet"], "is a folder"),
        (["--call-limit", "0"], "--call-limit"),
        (["--call-limit", "nan"], "--call-limit"),
        (["--out", "/proc/nowhere/s.parquet"], "cannot write there"),
        (["--bundle", "no-such-bundle"], "no-such-bundle"),
        (["--problems", "no-such.csv"], "no-such.csv"),
        (["--set", "engine.recording=none.jsonl"], "none.jsonl"),
    ],
)
def test_bad_input_is_one_clear_line_before_work_starts(
    contest: Contest, options: list[str], message: str
) -> None:
    (contest.folder / "folder.parquet").mkdir()
    done = contest.call(*options)
    assert (done.returncode, message in done.stderr) == (2, True), done
    assert not contest.out.exists()


@pytest.mark.slow
def test_bad_input_is_one_clear_line_of_the_process(contest: Contest) -> None:
    done = contest.run("--set", "solver.num_agnts=3")
    assert done.returncode == 2 and done.stdout == ""
    assert "did you mean 'num_agents'" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_output_that_another_contest_writes_is_refused(contest: Contest) -> None:
    with _only_one(contest.out), pytest.raises(ValueError, match="another contest is writing to"):
        _only_one(contest.out).__enter__()
    with _only_one(contest.out):
        pass


@pytest.mark.parametrize("change", ["", "ended", "another contest", "of yesterday"])
def test_what_an_interrupted_contest_left_is_known(contest: Contest, change: str) -> None:
    setup = resolve(None, ["engine.kind=replay", f"engine.recording={contest.folder / 'samples.jsonl'}"])
    outputs = Outputs.beside(contest.out)
    journal = Journal(outputs.journal)
    at = {"at": time.time() - 2 * 86_400 * (change == "of yesterday"), "elapsed": 7.0}
    digest = change if change == "another contest" else setup.digest
    journal.write({"type": "contest", "digest": digest, **at})
    journal.write({"type": "answer", "id": "a", "key": "k", "answer": 2, "source": "vote", **at})
    if change == "ended":
        journal.write({"type": "end", **at})
    journal.close()
    said = io.StringIO()
    known = _known(setup, outputs, Console(file=said, width=200))
    assert ("1 answers known, 7 s spent" in said.getvalue()) == (not change)
    assert (known.answers, known.elapsed) == (({}, 0.0) if change else ({"k": 2}, 7.0))


def test_a_submission_that_cannot_be_written_tells_the_answers(tmp_path: Path) -> None:
    rows = [Row("a", 2, "", 1.0), Row("b", 40, "", 1.0)]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written: .*; make room .* The answers: a=2, b=40"):
        write_submission(tmp_path / "file" / "s.parquet", rows)
    for name, read in (("s.parquet", pl.read_parquet), ("s.csv", pl.read_csv)):
        write_submission(tmp_path / name, rows)
        assert read(tmp_path / name).to_dicts() == [{"id": "a", "answer": 2}, {"id": "b", "answer": 40}]


def test_help_names_every_use() -> None:
    done = call(app, "--help")
    assert done.returncode == 0
    for word in ("--bundle", "--problems", "--serve", "--time-limit", "solve"):
        assert word in done.stdout


def test_solve_writes_its_samples(contest: Contest) -> None:
    contest.record({"problem": [boxed(1, 0.1), boxed(1, 0.2)]})
    command = ["solve", "What is 7^2024 mod 1000?", "--num-agents", "2", "--output-file", "out.json"]
    with contextlib.chdir(contest.folder):
        done = call(app, *command, "--set", "engine.kind=replay", "--set", "engine.recording=samples.jsonl")
    assert done.returncode == 0, done.stderr
    assert "votes 1: 2" in done.stdout
    assert '"answer": 1' in (contest.folder / "out.json").read_text(encoding="utf-8")


def test_an_engine_that_does_not_start_is_a_failed_run(contest: Contest, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    done = contest.run("--set", "engine.kind=transformers", MATH_MODEL_PATH=str(tmp_path / "model"))
    assert done.returncode != 0 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        *(["--time-limit", value] for value in ("0", "-5", "nan")),
        *(["--output-file", value] for value in ("/proc/x/y.json", ".")),
    ],
)
def test_solve_refuses_bad_options_before_it_loads(contest: Contest, options: list[str]) -> None:
    settings = ["--set", "engine.kind=replay", "--set", "engine.recording=samples.jsonl"]
    with contextlib.chdir(contest.folder):
        done = call(app, "solve", "1+1", *settings, *options)
    assert done.returncode == 2 and options[0] in done.stderr


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: os.truncate(folder / "model.safetensors", 5000), "cut short"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "a pickle"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "foo"}'), "architectures"),
    ],
)
def test_a_bad_model_folder_is_refused_before_it_is_loaded(
    contest: Contest,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    damage(make_tiny_checkpoint(contest.folder / "model"))
    monkeypatch.setenv("MATH_MODEL_PATH", str(contest.folder / "model"))
    done = contest.call("--set", "engine.kind=transformers")
    assert done.returncode == 2 and message in done.stderr
    assert not contest.out.exists()


@pytest.mark.slow
def test_a_full_disk_at_the_end_tells_the_answers(contest: Contest, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (not root)")
    try:
        # The samples' own texts fill the disk: journal first, then there is no room for the submission.
        contest.record({name: [Recorded("x" * 200_000 + "\\boxed{2}", 9, 0.1)] for name in "abc"})
        contest.out = disk / "submission.parquet"
        done = contest.run()
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "a=2, b=2, c=2" in done.stderr
        assert not contest.out.exists() and not list(disk.glob(".submission*"))
    finally:
        subprocess.run([str(shutil.which("umount")), str(disk)], check=True)
