"""The batch script's one command: runs a start of a job on its nodes, and puts the job back if it must go on.

    python -m kit.launch.batch grpo kit/recipes/grpo_qwen32b.toml --generator-nodes 2 optimizer.lr=1e-6

Runs inside a job, on its first node, as slurm/*.sbatch do it; needs the kit's base packages, not torch. On
USR1, USR2 or TERM (Slurm sends the first a while before the time limit) all ranks are asked to save and stop.
What decides whether the job is requeued is in `kit.launch.requeue`.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from rich.console import Console

from kit.launch import generators, slurm
from kit.launch.attempts import Attempt, History, Plan, ask_to_stop, attempt_folder, ends_of, progress
from kit.launch.requeue import Decision, Ending, decide, given_up
from kit.launch.spec import JobSpec
from submission.cli import run

ENGINE_TIMEOUT = "AIMO_ENGINE_TIMEOUT"
"""Seconds for all engines to answer: they load the model."""
SRUN_OPTIONS = "AIMO_SRUN_OPTIONS"
"""What a site adds to every srun, such as a container."""
_POLL = 0.5
_LAST_SECONDS = 60.0
"""For trainers to end by themselves when an engine has died, and for engines when the trainer has ended."""
_KILLS = (5.0, 15.0, 30.0)
console = Console(stderr=True, soft_wrap=True, emoji=False)


def main() -> None:
    """Run the job of this process's arguments; exits with 0, with 85 after a requeue, else with an error."""
    allocation = slurm.Allocation.from_environment(os.environ)
    spec = JobSpec.parse(sys.argv[1:], nodes=len(allocation.hosts))
    try:
        sys.exit(supervise(spec, allocation))
    except OSError as error:
        raise ValueError(f"{error}: without its record of starts the job is not requeued") from error


def supervise(spec: JobSpec, allocation: slurm.Allocation) -> int:
    """One start of the job, from its record to the decision; returns the exit code.

    Raises:
        ValueError: the recipe is wrong, or the record of starts cannot be read.
    """

    def body(attempt: Path, stop: Stop) -> Ending:
        hosts = ", ".join(allocation.hosts)
        _say(f"start {allocation.restart} on {hosts} from progress {progress(spec)}; logs in {attempt}")
        ending = Start(spec, allocation, attempt, stop).run()
        if ending.kind != "finished" and not slurm.state_of(allocation.job).running:
            return Ending("withdrawn", ending.reason)
        return ending

    decision = recorded(
        spec.launch_folder,
        allocation.job,
        allocation.hosts,
        body,
        lambda: progress(spec),
        spec.max_stalls,
        restart=allocation.restart,
    )
    if decision.requeue:
        slurm.requeue(allocation.job)
    return decision.exit_code


def recorded(
    launch: Path,
    job: str,
    hosts: tuple[str, ...],
    body: "Callable[[Path, Stop], Ending]",
    progress_now: Callable[[], int],
    max_stalls: int,
    *,
    restart: int | None = None,
) -> Decision:
    """One start of a job between its record and the decision what follows, which is for the caller to do.

    Args:
        launch: folder of the record.
        body: what the start does, given its folder, and who is asked to stop.
        progress_now: see `kit.launch.requeue.decide`.
        restart: number of the start; by default as many as the job has had.

    Raises:
        ValueError: the record of starts cannot be read.
    """
    launch = launch.resolve()
    history = History.load(launch)
    starts, found = history.starts(job), progress_now()
    if why := given_up(starts, found, max_stalls):
        _say(why)
        return Decision(False, 1, why)
    number = len(starts) if restart is None else restart
    attempt = attempt_folder(launch, job, number)
    attempt.mkdir(parents=True)
    begun = Attempt(job=job, restart=number, began=time.time(), nodes=hosts, progress=found)
    history = history.with_start(begun)
    history.save(launch)
    with Stop(attempt) as stop:
        ending = body(attempt, stop)
    decision = decide(history.starts(job), progress_now(), ending, max_stalls)
    history.with_end(ending.reason).save(launch)
    _say(decision.message)
    return decision


class Stop:
    """While entered, USR1, USR2 and TERM ask all ranks of an attempt to save and stop."""

    def __init__(self, attempt: Path) -> None:
        self._attempt = attempt
        self.asked = ""
        """Name of the first signal."""

    def __enter__(self) -> "Stop":
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the handlers: a late signal must not end the decision half-way."""

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.asked = self.asked or signal.Signals(number).name
        ask_to_stop(self._attempt)


class Start:
    """The steps of one start."""

    def __init__(self, spec: JobSpec, allocation: slurm.Allocation, attempt: Path, stop: Stop) -> None:
        self._spec, self._attempt, self._stop = spec, attempt, stop
        self._plan = Plan(
            args=tuple(spec.to_args()), hosts=allocation.hosts, job=allocation.job, port=allocation.port
        )
        self._engines: subprocess.Popen[bytes] | None = None
        self._trainers: subprocess.Popen[bytes] | None = None

    def run(self) -> Ending:
        """Start engines and ranks, wait for them, end what is left."""
        self._plan.write(self._attempt / "plan.json")
        try:
            if self._plan.generators:
                if ending := self._start_engines():
                    return ending
                self._plan.write(self._attempt / "plan.json")
            self._trainers = self._step(self._plan.trainers)
            code = self._wait()
            if self._engines is not None and not code:
                _end(self._engines, _LAST_SECONDS)  # the trainer has hung up
        finally:
            for step in (self._trainers, self._engines):
                if step is not None:
                    _end(step, 0)
        return self._ending(code)

    def _step(self, hosts: tuple[str, ...]) -> "subprocess.Popen[bytes]":
        script = Path(os.environ.get("AIMO_ROOT", ".")).resolve() / "slurm" / "run.sh"
        command = [str(script), "kit.launch.node", str(self._attempt)]
        options = shlex.split(os.environ.get(SRUN_OPTIONS, ""))
        return subprocess.Popen(slurm.step_command(hosts, command, options))

    def _start_engines(self) -> Ending | None:
        """Start them and wait until all answer; how the start ended where they don't."""
        generators.make_secret(self._attempt)
        hosts = self._plan.generators
        self._engines = self._step(hosts)
        seconds = float(os.environ.get(ENGINE_TIMEOUT, "1800"))
        until = time.monotonic() + seconds
        while missing := generators.unanswered(self._attempt, hosts):
            if self._engines.poll() is not None:
                return self._ending(self._engines.returncode or 1)
            if self._stop.asked:
                return Ending("stopped", f"{self._stop.asked} while engines were starting")
            if time.monotonic() > until:
                told = "; ".join(f"{who}: {why}" for who, why in missing.items())
                return Ending("failed", f"no answer within {seconds:g} s ({ENGINE_TIMEOUT}): {told}")
            time.sleep(_POLL)
        found = generators.addresses_of(self._attempt, hosts)
        _say(f"engines answer at {', '.join(found)}")
        more = generators.overrides(self._attempt, found)
        self._plan = self._plan.model_copy(update={"overrides": more})
        return None

    def _wait(self) -> int:
        """Until the ranks have ended; when an engine is dead they get a little time to say so themselves."""
        assert self._trainers is not None
        until = None
        while (code := self._trainers.poll()) is None:
            if until is None and self._engines is not None and self._engines.poll():
                until = time.monotonic() + _LAST_SECONDS
            if until is not None and time.monotonic() > until:
                return 1
            time.sleep(_POLL)
        return code

    def _ending(self, code: int) -> Ending:
        """How the start ended, from what engines, ranks and nodes have told."""
        told = ends_of(self._attempt)
        asked = f"{self._stop.asked}: " if self._stop.asked else ""
        engines = [end for end in told if end.who.startswith("engine")]
        if code and engines:  # the cause of what the ranks say of it
            return Ending("failed", asked + engines[0].reason)
        for kind in ("mistake", "failed", "stopped"):
            found = [end for end in told if end.kind == kind]
            if found and (code or kind == "stopped"):
                return Ending(found[0].kind, asked + found[0].reason)
        if code:
            return Ending("failed", f"srun ended with exit code {code}, and nothing on the nodes says why")
        return Ending("finished", "finished")


def _end(step: "subprocess.Popen[bytes]", patience: float) -> None:
    """Wait a while for a step, then end it: on SIGTERM srun kills its tasks."""
    for seconds in (patience, *_KILLS):
        with contextlib.suppress(subprocess.TimeoutExpired):
            step.wait(seconds)
            return
        step.terminate()
    # What is left ends with the job.


def _say(text: str) -> None:
    console.print(f"launch: {text}", markup=False, highlight=False)


if __name__ == "__main__":
    run(main)
