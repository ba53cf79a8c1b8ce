"""The few things that a job asks its Slurm, and tells it."""

import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

FIRST_PORT = 10_000
PORTS_A_JOB = 16
_JOBS = 1_250  # ports end below 30,000, where neither Slurm's own nor the system's passing ones begin
_FAILURES = ("JobLaunchFailure", "NonZeroExitCode", "RaisedSignal")  # of Slurm 22.05, and later ones' names
_PAUSES = (1.0, 5.0, 15.0)


@dataclass(frozen=True)
class Allocation:
    """The job that this process is the batch script of. `hosts` are Slurm's names of its nodes."""

    job: str
    restart: int
    hosts: tuple[str, ...]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Allocation":
        """Raises ValueError outside a job."""
        missing = [name for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST") if name not in environment]
        if missing:
            raise ValueError(
                f"{', '.join(missing)} is not set: this runs inside a job, as in sbatch slurm/grpo.sbatch"
            )
        hosts = _slurm("scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]).split()
        restart = int(environment.get("SLURM_RESTART_COUNT", "0"))
        return cls(environment["SLURM_JOB_ID"], restart, tuple(hosts))

    @property
    def port(self) -> int:
        """The first of the job's `PORTS_A_JOB`: jobs that share a node have others, if their ids are near."""
        return FIRST_PORT + PORTS_A_JOB * (int(self.job) % _JOBS)


@dataclass(frozen=True)
class State:
    """A job as Slurm sees it now.

    Args:
        signal: what its batch script was ended by, or that of an earlier start; else 0.
        reason: of its state; "None" where there is none.
    """

    name: str
    signal: int
    reason: str

    @property
    def running(self) -> bool:
        """Whether it is nobody's but its own to requeue: neither cancelled nor requeued nor over."""
        return self.name == "RUNNING"

    @property
    def script_killed(self) -> bool:
        """Whether its batch script died by SIGKILL, and Slurm did not mean it to."""
        return not self.running and self.signal == 9 and self.reason.startswith(_FAILURES)


def state_of(job: str) -> State:
    """Ask for it. ValueError where Slurm does not know the job, or does not answer."""
    said = _slurm("scontrol", "show", "job", "--oneliner", target(job, os.environ))
    name = re.search(r"\bJobState=(\w+)", said)
    code = re.search(r"\bExitCode=\d+:(\d+)", said)
    reason = re.search(r"\bReason=([^\s]+)", said)
    if name is None or code is None:
        raise ValueError(f"scontrol show job {job} says neither JobState nor ExitCode: {said[:200]!r}")
    return State(name[1], int(code[1]), reason[1] if reason else "")


def requeue(job: str) -> None:
    """Put the job back. Slurm then ends what is left of it. ValueError where it refuses."""
    _slurm("scontrol", "requeue", target(job, os.environ))


def target(job: str, environment: Mapping[str, str]) -> str:
    """What to call a job in a command. The id of one job of an array may stand for all of them."""
    if job == environment.get("SLURM_JOB_ID") and "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return job


def step_command(hosts: tuple[str, ...], command: list[str], options: list[str]) -> list[str]:
    """`srun` for one task on each of these nodes, with all that the job has there.

    One task that fails ends the others of the step.
    """
    count = str(len(hosts))
    return [
        "srun",
        f"--nodes={count}",
        f"--ntasks={count}",
        "--ntasks-per-node=1",
        f"--nodelist={','.join(hosts)}",
        "--kill-on-bad-exit=1",
        "--cpu-bind=none",
        *options,
        *command,
    ]


def _slurm(*command: str) -> str:
    for pause in (*_PAUSES, None):  # its controller may be busy, or just changing places
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        else:
            if not done.returncode:
                return done.stdout
            said = done.stderr.strip() or f"exit code {done.returncode}"
        if pause is None:
            break
        time.sleep(pause)
    raise ValueError(f"{' '.join(command)}: {said}")
