"""`jobs.jsonl`: which jobs were submitted for a run, a line each: `status` and `logs` find them there."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from kit.launch.attempts import History
from kit.launch.spec import LAUNCH

JOBS = "jobs.jsonl"
HISTORY = "history.json"
RUNS = Path("runs")
Cluster = Literal["slurm", "local", "debug"]


class JobRecord(BaseModel):
    """One submitted job.

    Args:
        job: its id; of an array `12_3`. Of the local cluster a process id.
        name: of the run, as `status` shows it: a stage of a pipeline, a point of a sweep.
        command: what it runs, as the words after `python -m`; empty where sbatch was called without us.
        out: the run's folder, whose metrics tell its step.
        launch: folder of its attempts and their logs.
        logs: folder of submitit's own files, the job's output among them.
        after: ids of the jobs that have to succeed first.
        submitted: time in ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    cluster: Cluster
    name: str
    command: tuple[str, ...]
    out: Path
    launch: Path
    logs: Path
    nodes: int = 1
    after: tuple[str, ...] = ()
    submitted: str

    @property
    def output(self) -> Path:
        """What the job's own process wrote, and sbatch's script."""
        return self.logs / f"{self.job}_0_log.out"

    @property
    def errors(self) -> Path:
        """What it wrote to standard error."""
        return self.logs / f"{self.job}_0_log.err"


def append(folder: Path, record: JobRecord) -> None:
    """Add a line to the launch folder's list."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / JOBS).open("a", encoding="utf-8") as file:
        file.write(record.model_dump_json() + "\n")


def read(folder: Path) -> list[JobRecord]:
    """The jobs of a launch folder in the order of submission, without a torn line (a killed submission)."""
    path = folder / JOBS
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(JobRecord.model_validate_json(line))
        except ValidationError:
            continue
    return found


def of_run(run: Path) -> list[JobRecord]:
    """The jobs of a run's folder, or of all runs below a folder that is none itself.

    Raises:
        ValueError: no job was submitted there.
    """
    found = [record for folder in sorted(_folders(run, JOBS)) for record in read(folder)]
    ours = {record.launch for record in found}
    for folder in sorted(_folders(run, HISTORY)):
        if folder.absolute() not in ours:
            found += _by_sbatch(folder)
    if not found:
        raise ValueError(f"no job was launched for a run in {run}")
    return sorted(found, key=lambda record: record.submitted)


def _by_sbatch(folder: Path) -> list[JobRecord]:
    """Jobs of slurm/*.sbatch, known by the starts that they recorded."""
    starts = {attempt.job: attempt for attempt in reversed(History.load(folder).attempts)}
    return [
        JobRecord(
            job=job,
            cluster="slurm",
            name=folder.absolute().parent.name,
            command=(),
            out=folder.absolute().parent,
            launch=folder.absolute(),
            logs=folder.absolute(),
            nodes=len(first.nodes),
            submitted=datetime.datetime.fromtimestamp(first.began, datetime.UTC).isoformat(),
        )
        for job, first in starts.items()
    ]


def of_job(job: str, runs: Path) -> JobRecord:
    """The newest submission of this id below `runs`.

    Raises:
        ValueError: there is none; the message names the ids that there are.
    """
    records = of_run(runs)
    same = [record for record in records if record.job == job]
    if not same:
        known = ", ".join(f"{record.job} ({record.name})" for record in records[-10:])
        raise ValueError(f"no job {job} below {runs}; the last ones are {known}")
    return same[-1]


def _folders(run: Path, name: str) -> Iterator[Path]:
    """Launch folders with such a file: the run's own, else those of all runs below."""
    own = run / LAUNCH / name
    for path in (own,) if own.is_file() else run.glob(f"**/{LAUNCH}/{name}"):
        yield path.parent
