"""What submitit pickles, and calls inside the job: the words of a task and how to run them.

It is found again there by its module's name, in the snapshot of the code: only the words travel.
"""

import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit import JobEnvironment
from submitit.helpers import Checkpointable

from kit.launch.requeue import Decision
from kit.launch.spec import JobSpec
from kit.launch.stages import StageWork
from kit.training.signals import REQUEUE_EXIT_CODE


def _signal() -> signal.Signals:
    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


class JobFailedError(RuntimeError):
    """The job is over and does not come back; the message says why."""


@dataclass
class KitJob(Checkpointable):
    """A task as a job of submitit.

    submitit's own handler puts a job back that is signalled before the supervisor listens. Afterwards the
    supervisor decides, by the progress that the run makes, and the same call runs again.

    Args:
        words: of a phase `JobSpec.to_args`, else of a command.
        phase: whether it is one.
        launch: folder of a command's record.
        stage: of a pipeline: how its end is written down.
    """

    words: tuple[str, ...]
    phase: bool
    launch: Path
    gpus: int = 0
    stage: StageWork | None = None

    def __call__(self) -> None:
        """Run to the end of this start. Raises JobFailedError where the job ends without success."""
        with self.stage.recorded() if self.stage else nullcontext():
            self._run()

    def _run(self) -> None:
        environment = JobEnvironment()
        put_back = signal.getsignal(_signal())
        if environment.cluster == "slurm":
            self._on_slurm(environment.raw_job_id, put_back)
        else:
            self._follow(self._here(environment.job_id), put_back)

    def _on_slurm(self, job: str, put_back: Any) -> None:
        """Without a result where the job comes back, by its own doing or by Slurm's (preemption)."""
        from kit.launch import batch, slurm

        if not self.phase:
            decision = self._here(job)
            if decision.exit_code and not slurm.state_of(job).running:
                sys.exit(decision.exit_code)
            self._follow(decision, put_back)
            return
        allocation = slurm.Allocation.from_environment(os.environ)
        code = batch.supervise(JobSpec.parse(self.words, nodes=len(allocation.hosts)), allocation)
        if code == REQUEUE_EXIT_CODE or (code and not slurm.state_of(job).running):
            sys.exit(code)
        if code:
            raise JobFailedError("the lines above say why")

    def _here(self, job: str) -> Decision:
        from kit.launch import here

        if self.phase:
            return here.run_spec(JobSpec.parse(self.words), job, self.gpus)
        return here.run_command(self.words, self.launch, job)

    def _follow(self, decision: Decision, put_back: Any) -> None:
        # On this machine only who wants to have it ended sends a TERM; the time limit sends another signal.
        ended = JobEnvironment().cluster == "local" and decision.message.startswith("SIGTERM")
        if ended:
            raise JobFailedError(f"{decision.message.partition(';')[0]}; the same command goes on")
        if decision.requeue:
            put_back(_signal(), None)  # does not return
        if decision.exit_code:
            raise JobFailedError(decision.message)


@dataclass
class DebugJob:
    """A phase in the very process of the submission, as one rank: breakpoints work."""

    words: tuple[str, ...]

    def __call__(self) -> int | ValueError:
        """The exit code of `kit.train`; a mistake is returned, since submitit debugs what is raised."""
        spec = JobSpec.parse(self.words)
        if spec.phase == "eval":
            from submission.__main__ import app

            arguments = list(spec.overrides)
        else:
            from kit.train import app

            arguments = [spec.phase, str(spec.recipe), *spec.overrides]
        try:
            app(arguments)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except ValueError as error:
            return error
        return 0
