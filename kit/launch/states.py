"""The states of jobs: from squeue and sacct, or from the processes of the local cluster."""

import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.launch.records import JobRecord

LIVE = frozenset(
    {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "SUSPENDED"}
)
"""A job in one of these is not over; of PREEMPTED ones the job's requeueing decides."""
GOOD = "COMPLETED"
UNKNOWN = "UNKNOWN"
_FIELDS = ("JobID", "State", "Elapsed", "NodeList", "Reason", "ExitCode")
_SQUEUE = "%i|%T|%M|%N|%r|"


@dataclass(frozen=True)
class JobState:
    """What is known of a job. `reason` is Slurm's word for why it waits or ended, empty where it has none."""

    state: str
    elapsed: str = ""
    nodes: str = ""
    reason: str = ""
    exit_code: str = ""

    @property
    def live(self) -> bool:
        """Whether it waits or runs, for all that is known."""
        return self.state in LIVE

    @property
    def bad(self) -> bool:
        """Whether it is over without success."""
        return not self.live and self.state not in (GOOD, UNKNOWN)


def states_of(records: Iterable[JobRecord]) -> dict[str, JobState]:
    """The state of every job, by id; UNKNOWN where nothing tells it."""
    found: dict[str, JobState] = {}
    slurm: list[str] = []
    for record in records:
        if record.cluster == "slurm":
            slurm.append(record.job)
        else:
            found[record.job] = _local(record)
    return found | ask_slurm(slurm)


def ask_slurm(jobs: Sequence[str]) -> dict[str, JobState]:
    """States by id. squeue knows the live ones at once, sacct those that are long over."""
    known = {job: JobState(UNKNOWN) for job in jobs}
    if not jobs:
        return known
    if shutil.which("squeue") is None:
        return {job: JobState(UNKNOWN, reason="no Slurm here (squeue is not on PATH)") for job in jobs}
    ids = ",".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    recorded, _ = _output(
        "sacct", "--allocations", "--parsable2", f"--format={','.join(_FIELDS)}", f"--jobs={ids}"
    )
    # squeue refuses a list of ids if it knows none of them: then sacct's word stands.
    live, problem = _output("squeue", "--noheader", "--states=all", f"--format={_SQUEUE}", f"--jobs={ids}")
    if problem and "Invalid job id" not in problem:
        return {job: JobState(UNKNOWN, reason=f"Slurm does not answer: {problem}") for job in jobs}
    found = {**read_table(recorded), **read_table("|".join(_FIELDS) + "\n" + live)}
    return known | {job: state for job, state in found.items() if job in known}


def read_table(text: str) -> dict[str, JobState]:
    """States by job id from sacct's parsable output with its header; of arrays one for each task."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    rows: Mapping[str, Mapping[str, str]] = SlurmInfoWatcher().read_info(text)
    found = {}
    for job, row in rows.items():
        reason = row.get("Reason", "")
        nodes = row.get("NodeList", "")
        found[job] = JobState(
            state=(row.get("State", "").split() or [UNKNOWN])[0].rstrip("+"),
            elapsed=row.get("Elapsed", ""),
            nodes="" if nodes.startswith("None") else nodes,
            reason="" if reason in ("None", "(null)") else reason,
            exit_code=row.get("ExitCode", ""),
        )
    return found


def _output(*command: str) -> tuple[str, str]:
    """What it prints, and its complaint where it fails: sacct does on a cluster without accounting."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode:
        return "", done.stderr.strip() or f"{command[0]} ended with exit code {done.returncode}"
    return done.stdout, ""


def _local(record: JobRecord) -> JobState:
    """The local cluster's jobs are named by the process that controls them; debug's are over at once."""
    if record.cluster == "local" and _controls(record.job, record.logs):
        return JobState("RUNNING")
    return JobState(UNKNOWN)


def _controls(process: str, folder: Path) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"submitit.local._local" in words and str(folder).encode() in words
