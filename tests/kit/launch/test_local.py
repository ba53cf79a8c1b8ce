"""The local cluster: real processes, one task after another, and the same record of them as on Slurm."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit.launch import logs, status
from kit.launch.attempts import Attempt, History
from kit.launch.records import JobRecord, append, of_job, of_run, read
from kit.launch.states import JobState
from tests.kit.launch.made import launch as launch_here
from tests.kit.launch.made import make_place
from tests.tiny import make_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[3]
PIPELINE = """
out = "runs/p"
[stages.first]
command = ["python", "-c", "import kit.launch; print(kit.launch.__file__)", "${out}"]
[stages.second]
command = ["python", "-c", "raise SystemExit(3)"]
after = ["first"]
[stages.third]
command = ["python", "-c", "print('the third one')"]
after = ["second"]
"""


def launch(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """`python -m kit.launch` as a user calls it, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "kit.launch", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_stage_that_fails_stops_those_behind_it_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "p.toml").write_text(PIPELINE)
    done = launch(tmp_path, "pipeline", "p.toml", "--cluster", "local")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "third: stopped: second before it failed"
    assert "first: COMPLETED" in done.stderr.splitlines()
    assert "second: the command ended with exit code 3" in done.stderr.splitlines()
    assert "the third one" not in done.stdout
    (code,) = (tmp_path / "runs" / "p" / "launch").glob("code-*")
    assert f"{code}/kit/launch/__init__.py" in done.stdout.splitlines()
    first, second = read(tmp_path / "runs" / "p" / "launch")
    told = launch_here("status")
    assert "COMPLETED" in told.out and "FAILED" in told.out
    assert "the command ended with exit code 3" in told.out
    assert str(code) in launch_here("logs", first.job).out
    told = launch_here("cancel", second.job)
    assert told.code == 2 and "stop it with Ctrl-C where it was started" in told.err


def record(folder: Path, job: str, name: str, *after: str) -> JobRecord:
    """A job of Slurm whose run is in a folder of its name."""
    made = JobRecord(
        job=job,
        cluster="slurm",
        name=name,
        command=("kit.launch", name),
        out=folder / name,
        launch=folder / name / "launch",
        logs=folder / "launch" / "jobs",
        nodes=2,
        after=after,
        submitted=f"2026-01-01T00:00:{len(job):02}",
    )
    append(folder / "launch", made)
    return made


def test_status_tells_why_jobs_wait_and_why_they_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        record(tmp_path, "1", "distill"),
        record(tmp_path, "2", "grpo", "1"),
        record(tmp_path, "3", "package", "2"),
        record(tmp_path, "4", "other"),
        record(tmp_path, "5", "later", "4"),
        record(tmp_path, "6", "back"),
    ]
    begun = {"restart": 0, "began": 0.0, "nodes": ("node1",), "progress": 0}
    History(
        attempts=(
            Attempt.model_validate({"job": "1", **begun, "ended": "rank 1 on node2 died by SIGKILL"}),
            Attempt.model_validate({"job": "1", **begun, "ended": "rank 0: no such column"}),
        )
    ).save(records[0].launch)
    History(attempts=(Attempt.model_validate({"job": "6", **begun, "ended": "SIGUSR2: saved"}),)).save(
        records[5].launch
    )
    records[3].out.mkdir()
    lines = [json.dumps({"kind": "train", "step": step}) for step in (1, 2, 3)]
    (records[3].out / "metrics.jsonl").write_text("\n".join(lines) + '\n{"kind": "tr')
    states = {
        "1": JobState("FAILED", "0:10", "node[1-2]", "NonZeroExitCode", "1:0"),
        "2": JobState("CANCELLED", "0:00", "", "DependencyNeverSatisfied"),
        "3": JobState("CANCELLED", "0:00", "", "DependencyNeverSatisfied"),
        "4": JobState("RUNNING", "0:03", "node[1-2]"),
        "5": JobState("PENDING", "", "", "Dependency"),
        "6": JobState("PENDING", "", "", "BeginTime"),
    }
    last = records[0].logs / "7_0_log.err"
    last.parent.mkdir(parents=True)
    last.write_text("launch: start 2\nlaunch: not requeued: 3 starts in a row\nTraceback\n")
    records.append(record(tmp_path, "7", "gave_up"))
    states["7"] = JobState("FAILED", "0:10", "node1", "NonZeroExitCode", "1:0")
    monkeypatch.setattr(status, "states_of", lambda _records: dict(states))
    rows = status.rows_of(of_run(tmp_path))
    assert [(row.step, row.starts, row.why) for row in rows] == [
        (None, 2, "rank 0: no such column"),
        (None, 0, "stopped: distill (job 1) before it ended FAILED"),
        (None, 0, "stopped: grpo (job 2) before it was cancelled"),
        (3, 0, ""),
        (None, 0, "waits for other"),
        (None, 1, "SIGUSR2: saved; was just put back into the queue"),
        (None, 0, "not requeued: 3 starts in a row"),
    ]


def test_a_job_is_found_by_its_id_and_a_wrong_id_names_those_that_there_are(tmp_path: Path) -> None:
    known = record(tmp_path / "runs" / "a", "17", "grpo")
    with (tmp_path / "runs" / "a" / "launch" / "jobs.jsonl").open("a") as file:
        file.write('{"job": "torn')
    assert of_job("17", tmp_path) == known
    with pytest.raises(ValueError, match=r"no job 18 below .*; the last ones are 17 \(grpo\)"):
        of_job("18", tmp_path)


def test_a_run_that_sbatch_was_called_for_is_known_by_its_starts(tmp_path: Path) -> None:
    begun = {"nodes": ("node1", "node2"), "progress": 0}
    starts = [("41", 0, 100.0), ("41", 1, 200.0), ("44", 0, 300.0)]
    History(
        attempts=tuple(
            Attempt.model_validate({"job": job, "restart": restart, "began": began, **begun})
            for job, restart, began in starts
        )
    ).save(tmp_path / "runs" / "grpo" / "launch")
    found = of_run(tmp_path)
    assert [(record.job, record.name, record.nodes) for record in found] == [
        ("41", "grpo", 2),
        ("44", "grpo", 2),
    ]
    assert found[0].submitted == "1970-01-01T00:01:40+00:00"
    with pytest.raises(ValueError, match="job 41 was submitted by sbatch, whose --output says where"):
        logs.files_of(found[0])


def test_following_ends_with_the_job_and_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_POLL", 0.01)
    first, second = tmp_path / "out", tmp_path / "err"
    turns = iter([(first, b"a"), (second, b"b"), (first, b"c")])

    def over() -> bool:
        turn = next(turns, None)
        if turn is not None:
            with turn[0].open("ab") as file:
                file.write(turn[1])
        return turn is None

    assert b"".join(logs.follow([first, second], over)) == b"abc"
    assert b"".join(logs.read([first, second, tmp_path / "none"])) == b"acb"


@pytest.mark.slow
def test_a_phase_trains_on_this_machine_and_in_this_process(tmp_path: Path) -> None:
    folder = make_place(tmp_path)
    make_tiny_checkpoint(folder / "model", hidden=32, heads=1, layers=1)
    rows = [{"problem": f"{n}+1?", "answer": str(n + 1), "completion": str(n + 1)} for n in range(8)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ["batch.batch_size=4", "max_steps=2", "max_length=128", "logging.live=never"]
    done = launch(folder, "distill", "distill.toml", *more, "--ranks-per-node", "2", "--cluster", "local")
    assert done.returncode == 0, done.stderr
    assert "distill: COMPLETED" in done.stderr
    (job,) = read(folder / "runs" / "distill" / "launch")
    for rank in ("0", "1"):
        told = launch(folder, "logs", job.job, "--rank", rank)
        assert told.returncode == 0, told.stderr
    told = launch(folder, "logs", job.job, "--rank", "2")
    assert "there are 0, 1" in told.stderr
    done = launch(folder, "distill", "distill.toml", *more, "out=runs/debug", "--cluster", "debug")
    assert done.returncode == 0, done.stderr

    def losses(name: str) -> list[float]:
        lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["values"]["loss"] for line in lines]

    assert len(losses("debug")) == 2
    assert losses("debug") == pytest.approx(losses("distill"), rel=1e-5)


SIDE_BY_SIDE = """
out = "runs/p"
[stages.left]
command = ["python", "-c", "CODE", "${out}", "right"]
[stages.right]
command = ["python", "-c", "CODE", "${out}", "left"]
[stages.behind]
command = ["python", "-c", "import os; print('threads', os.environ.get('OMP_NUM_THREADS'))"]
after = ["left", "right"]
"""
MEET = """import sys, time, pathlib
out = pathlib.Path(sys.argv[1]); out.mkdir(parents=True); (out / 'here').touch(); print('first\\\\nlast')
until = time.monotonic() + 60
while not (out.parent / sys.argv[2] / 'here').exists():
    assert time.monotonic() < until; time.sleep(0.05)"""


@pytest.mark.slow
def test_stages_run_side_by_side_with_their_names_before_their_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = json.dumps(MEET)[1:-1].replace("\\\\\\\\", "\\\\")
    (tmp_path / "p.toml").write_text(SIDE_BY_SIDE.replace("CODE", code))
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-m", "kit.launch", "pipeline", "p.toml", "--cluster", "local", "--jobs", "2"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert {"left | last", "right | first", "right | last"} <= set(lines)
    assert f"behind | threads {max(1, (os.cpu_count() or 1) // 2)}" in lines
    assert "3/3 behind: is new" in done.stderr


@pytest.mark.slow
def test_a_pipeline_that_is_asked_to_end_ends_its_jobs_and_goes_on_later(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; out = pathlib.Path(sys.argv[1]); again = out.exists(); "
        "out.mkdir(parents=True, exist_ok=True); print('again' if again else 'waits', flush=True); "
        "time.sleep(0 if again else 60)"
    )
    text = f'out = "runs/p"\n[stages.a]\ncommand = ["python", "-c", "{code}", "${{out}}"]\n'
    (tmp_path / "p.toml").write_text(text)
    words = [sys.executable, "-m", "kit.launch", "pipeline", "p.toml", "--cluster", "local"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "waits\n":
            break
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    (job,) = read(tmp_path / "runs" / "p" / "launch")
    assert not Path(f"/proc/{job.job}").exists()
    done = launch(tmp_path, "pipeline", "p.toml", "--cluster", "local")
    assert done.returncode == 0, done.stderr
    assert "1/1 a: goes on" in done.stderr and "again" in done.stdout.splitlines()
