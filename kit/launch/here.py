"""A start of a job on this very node, without srun: a plain command, or anything on the local cluster."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kit.launch.attempts import progress
from kit.launch.batch import Start, Stop, recorded
from kit.launch.requeue import Decision, Ending
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

    return recorded(spec.launch_folder, job, (HOST,), body, lambda: progress(spec), spec.max_stalls)


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

    return recorded(launch, job, (HOST,), body, lambda: 0, MAX_STALLS)


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
