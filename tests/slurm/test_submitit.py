"""docs/slurm.md is true: its commands, in its order, on a real Slurm, shortened; and what it says of jobs."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from submitit import SlurmJob

from kit.launch.records import JobRecord, of_run
from kit.launch.status import last_step
from tests.lab import Lab
from tests.slurm.made import history, losses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8")
SMALLER = (
    "batch.batch_size=128",
    "batch.epochs=4",
    "max_steps=12",
    "checkpoint.every=2",
    "evaluation.every=0",
)
SMALL = ["python", "-m", "kit.small", "--out", "${out}", "--problems", "300"]
FAILS = """
out = "runs/fails"
[stages.first]
command = ["python", "-c", "raise SystemExit(3)"]
[stages.second]
command = ["python", "-c", "print('never')"]
after = ["first"]
[stages.third]
command = ["python", "-c", "print('never')"]
after = ["second"]
"""


SITE = {"SBATCH_PARTITION": "low", "SBATCH_NO_REQUEUE": "1", "SBATCH_TIMELIMIT": "20"}
"""A user's shell: what a command says goes before it."""
ALONE = """
import json, sys
from kit.launch.job import DebugJob
for words in json.loads(sys.argv[1]):
    assert DebugJob(tuple(words))() == 0
"""


def page_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


class Place:
    """A checkout of the kit, from which its user launches jobs."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        for name in ("submission", "kit", "slurm"):
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "site.env")
            )

    def run(self, line: str, *more: str, seconds: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run a line of the page, with `more` behind it."""
        words = [*shlex.split(line), *more]
        environment = {**self.lab.environment, **SITE, "PYTHONPATH": str(self.folder), "COLUMNS": "250"}
        return subprocess.run(
            words,
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def page(self, *marks: str, more: tuple[str, ...] = (), job: str = "JOB", seconds: float = 120) -> str:
        """Run the page's line that holds all `marks`, or is one; what it said. It has to succeed."""
        lines = page_commands()
        exact = [line for line in lines if line in marks]
        (line,) = exact or [line for line in lines if all(mark in line for mark in marks)]
        done = self.run(line.replace("JOB", job), *more, seconds=seconds)
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout + done.stderr

    def jobs(self, run: str) -> list[JobRecord]:
        return of_run(self.folder / "runs" / run)

    def wait(self, *records: JobRecord, state: str = "COMPLETED") -> None:
        for record in records:
            self.lab.wait(record.job, state, seconds=300)

    def alone(self, *runs: Sequence[str]) -> list[list[float]]:
        """Losses of the same phases one after another in one process, as `--cluster debug` runs them."""
        words = [[*run, f"out=runs/alone_{run[0]}"] for run in runs]
        done = self.run(shlex.join([sys.executable, "-c", ALONE, json.dumps(words)]), seconds=200)
        assert done.returncode == 0, done.stderr[-3000:]
        return [losses(self.folder / "runs" / f"alone_{run[0]}") for run in runs]


@pytest.fixture(scope="module")
def place(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(lab, tmp_path_factory.mktemp("checkout"))
    place.page("cp slurm/site.env.example")
    place.page("kit.small", more=("--problems", "400"))
    yield place


def test_every_command_of_the_page_is_tested_here() -> None:
    tested = ["cp ", "kit.small", "distill kit/recipes", "status", "logs", "sbatch", "pipeline", "cancel"]
    for line in page_commands():
        assert any(mark in line for mark in tested), f"no test runs {line!r}"


def test_the_first_job(place: Place) -> None:
    said = place.page("distill", "--dry-run", more=SMALLER)
    assert "#SBATCH --nodes=2\n" in said and "distill: 2 nodes, each 2 ranks of\n" in said
    assert not (place.folder / "runs").exists()
    (line,) = [
        line
        for line in page_commands()
        if "launch distill" in line and "--nodes" in line and "dry" not in line
    ]
    done = place.run(line, *SMALLER)
    assert done.returncode == 0, done.stderr
    (job,) = place.jobs("distill_cpu")
    refused = place.run(line, *SMALLER)
    assert refused.returncode == 2 and f"job {job.job} (distill, " in refused.stderr
    place.wait(job)
    assert "COMPLETED" in place.page("status", "runs/distill_cpu")
    assert "the model is in runs/distill_cpu/model" in place.page("logs", job=job.job)
    rank = place.run(f"python -m kit.launch logs {job.job} --rank 3")
    assert rank.returncode == 0, rank.stderr
    (alone,) = place.alone(("distill", "kit/recipes/distill_cpu.toml", *SMALLER))
    assert len(alone) == 12
    assert losses(job.out) == pytest.approx(alone, rel=1e-5)


def test_a_sweep_of_which_one_run_is_interrupted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.page("--array", more=SMALLER)
    first, second = place.jobs("distill_cpu")[-2:]
    assert [record.out.name for record in (first, second)] == ["lr=2e-3", "lr=1e-3"]
    for name, value in place.lab.environment.items():
        monkeypatch.setenv(name, value)
    assert " Partition=low " in place.lab.command("scontrol", "show", "job", "--oneliner", first.job)
    trained = lambda: (last_step(first.out / "metrics.jsonl") or 0) >= 3  # noqa: E731
    place.lab.until(first.job, "steps", trained)
    behind = [f"--dependency=afterok:{first.job}", "--kill-on-invalid-dep=yes", "--output=/dev/null"]
    waiting = place.lab.command("sbatch", "--parsable", *behind, "--wrap=true")
    SlurmJob(first.logs, first.job)._interrupt(timeout=True)
    place.wait(first, second)
    # A job that is put back has not failed in the eyes of those that wait for it.
    place.lab.wait(waiting, "COMPLETED")
    starts = history(first.out).attempts
    assert [start.progress > 0 for start in starts] == [False, True]
    assert "saved and stopped" in starts[0].ended
    assert len(history(second.out).attempts) == 1
    assert losses(first.out) == pytest.approx(losses(place.folder / "runs" / "distill_cpu"), rel=1e-5)
    assert losses(second.out)[0] == pytest.approx(losses(first.out)[0], rel=1e-5)
    assert losses(second.out)[-1] != pytest.approx(losses(first.out)[-1], rel=1e-3)


def test_a_stage_that_fails_stops_those_behind_it(place: Place) -> None:
    (place.folder / "fails.toml").write_text(FAILS)
    done = place.run("python -m kit.launch pipeline fails.toml --wait")
    assert done.returncode == 1
    first, second, third = place.jobs("fails")
    assert second.after == (first.job,)
    assert f"first (job {first.job}): FAILED, the command ended with exit code 3" in done.stderr
    assert f"stopped: first (job {first.job}) before it ended FAILED" in done.stderr
    assert f"stopped: second (job {second.job}) before it was cancelled" in done.stderr
    assert not third.output.exists()


def test_what_is_submitted_can_be_cancelled(place: Place) -> None:
    (place.folder / "waits.toml").write_text('[stages.a]\ncommand = ["sleep", "600"]\n')
    line = "python -m kit.launch pipeline waits.toml out=runs/waits partition=batch"
    assert place.run(line).returncode == 0
    (job,) = place.jobs("waits")
    place.lab.until(job.job, "its start", lambda: job.errors.exists() and "sleep" in job.errors.read_text())
    told = place.lab.command("scontrol", "show", "job", "--oneliner", job.job)
    assert re.search(r" Requeue=1 .* TimeLimit=00:20:00 .* Partition=batch ", told)
    assert f"a (job {job.job}) was cancelled" in place.page("cancel", job=job.job)
    place.wait(job, state="CANCELLED")


def test_the_line_for_sbatch(place: Place) -> None:
    # Real jobs of this script run in the other tests of this folder.
    (line,) = [line for line in page_commands() if line.startswith("sbatch")]
    done = place.run(line.replace("sbatch", "sbatch --test-only", 1))
    assert done.returncode == 0 and "to start at" in done.stderr


def test_the_whole_pipeline(place: Place) -> None:
    nodes = [f"stages.{name}.{key}=2" for name in ("grpo", "prm") for key in ("nodes", "ranks_per_node")]
    more = (f"stages.small.command={json.dumps(SMALL)}", *nodes)
    said = place.page("pipeline", "--wait", more=more, seconds=600)
    records = {record.name: record for record in place.jobs("pipeline_cpu")}
    for name, record in records.items():
        assert f"{name} (job {record.job}): COMPLETED" in said
    assert records["package"].after == (records["grpo"].job, records["prm"].job)
    told = place.page("python -m kit.launch status")
    assert told.count("COMPLETED") >= len(records) == 7
    report = records["benchmark"].out / "submission.report.html"
    assert report.is_file() and (records["package"].out / "bundle" / "manifest.json").is_file()
    for phase, alone in zip(
        ("grpo", "prm"), place.alone(*map(words_of, (records["grpo"], records["prm"]))), strict=True
    ):
        assert records[phase].nodes == 2
        assert losses(records[phase].out) == pytest.approx(alone, rel=1e-5, abs=1e-7)


def words_of(record: JobRecord) -> list[str]:
    """Phase, recipe and overrides of a job, without its layout and folder."""
    phase, recipe, *rest = record.command[1:]
    return [phase, recipe, *(word for word in rest if "=" in word and not word.startswith("out="))]
