"""A start of a job on this very node, without srun: a plain command, or anything on the local cluster."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kit.launch.attempts import Attempt, History, attempt_folder, progress
from kit.launch.batch import Start, Stop
from kit.launch.requeue import Decision, Ending, decide, given_up
from kit.launch.slurm import Allocation
from kit.launch.spec import MAX_STALLS, JobSpec

HOST = "localhost"
_POLL = 0.2
_LAST_SECONDS = 60.0


class Here(Allocation):
    """This machine as the one node of a job. Its ports are free ones: others may train here too."""

    @property
    def port(self) -> int:
        """Free a moment ago."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])


class LocalStart(Start):
    """A start whose node's task is a child of this process."""

    gpus = 0

    def _step(self, hosts: tuple[str, ...]) -> "subprocess.Popen[bytes]":
        """The environment is what Slurm would say on the node."""
        assert hosts == (HOST,), f"{hosts} is not this machine alone"
        environment = {**os.environ, "SLURMD_NODENAME": HOST, "SLURM_GPUS_ON_NODE": str(self.gpus)}
        return subprocess.Popen(
            [sys.executable, "-m", "kit.launch.node", str(self._attempt)], env=environment
        )


def run_spec(spec: JobSpec, job: str, gpus: int) -> Decision:
    """A phase on this machine.

    Raises:
        ValueError: the recipe is wrong, or the record of starts cannot be read.
    """

    def body(attempt: Path, stop: Stop) -> Ending:
        start = LocalStart(spec, Here(job, 0, (HOST,)), attempt, stop)
        start.gpus = gpus
        return start.run()

    return _supervised(spec.launch_folder, job, body, lambda: progress(spec), spec.max_stalls)


def run_command(words: Sequence[str], launch: Path, job: str) -> Decision:
    """A plain command. A stop ends it by SIGTERM, and its next start has to go on by itself.

    What ends with an exit code would end so again and does not come back; what is killed by a signal may.
    """
    command = [sys.executable if word == "python" else word for word in words]

    def body(_attempt: Path, stop: Stop) -> Ending:
        sys.stderr.write(f"launch: {shlex.join(words)}\n")
        try:
            process = subprocess.Popen(command)
        except OSError as error:
            return Ending("mistake", f"{words[0]} cannot be started: {error.strerror}")
        return _until_over(process, stop)

    return _supervised(launch, job, body, lambda: 0, MAX_STALLS)


def _until_over(process: "subprocess.Popen[bytes]", stop: Stop) -> Ending:
    until = None
    while (code := process.poll()) is None:
        if until is None and stop.asked:
            process.terminate()
            until = time.monotonic() + _LAST_SECONDS
        if until is not None and time.monotonic() > until:
            process.kill()
        time.sleep(_POLL)
    if code == 0:
        return Ending("finished", "finished")
    if stop.asked:
        return Ending("stopped", f"{stop.asked}: the command was ended")
    if code < 0:
        return Ending("failed", f"the command died by {signal.Signals(-code).name}")
    return Ending("mistake", f"the command ended with exit code {code}")


def _supervised(
    launch: Path,
    job: str,
    body: Callable[[Path, Stop], Ending],
    progress_now: Callable[[], int],
    max_stalls: int,
) -> Decision:
    """As `kit.launch.batch.supervise`, with the requeueing left to the caller."""
    launch = launch.resolve()
    history = History.load(launch)
    starts, found = history.starts(job), progress_now()
    if why := given_up(starts, found, max_stalls):
        return _said(Decision(False, 1, why))
    attempt = attempt_folder(launch, job, len(starts))
    attempt.mkdir(parents=True)
    begun = Attempt(job=job, restart=len(starts), began=time.time(), nodes=(HOST,), progress=found)
    history = history.with_start(begun)
    history.save(launch)
    with Stop(attempt) as stop:
        ending = body(attempt, stop)
    history.with_end(ending.reason).save(launch)
    return _said(decide(history.starts(job), progress_now(), ending, max_stalls))


def _said(decision: Decision) -> Decision:
    sys.stderr.write(f"launch: {decision.message}\n")
    return decision
