"""submitit's executors as the launcher uses them, and the script that they would submit."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from submitit import JobEnvironment, LocalExecutor, SlurmExecutor

from kit.launch.durations import minutes_of
from kit.launch.resources import Resources

SIGNAL = JobEnvironment.USR_SIG
"""What submitit's jobs listen to: USR2, or SUBMITIT_PREEMPT_SIGNAL."""
_FOR_EVER = 1_000_000
"""submitit's limit of time-outs: here a run's progress decides how often its job comes back."""


class BatchExecutor(SlurmExecutor):
    """A Slurm executor whose jobs are the batch script's own process, on the first node of each.

    That process starts the others by srun, as slurm/*.sbatch do: one supervisor serves both.
    """

    @property
    def _submitit_command_str(self) -> str:
        """exec: Slurm signals the script's shell, and so it reaches the supervisor."""
        return f'exec "$AIMO_ROOT/slurm/run.sh" submitit.core._submit {shlex.quote(str(self.folder))}'

    @classmethod
    def affinity(cls) -> int:
        """Always there: `kit.launch.check` asks for Slurm where one is needed; a dry run needs none."""
        return 2

    def script(self, count: int = 1) -> str:
        """What sbatch is given for `count` jobs."""
        saved = dict(self.parameters)
        try:
            if count > 1:
                self.parameters["map_count"] = count
            return self._make_submission_file_text(self._submitit_command_str, "")
        finally:
            self.parameters = saved


def slurm_executor(
    folder: Path,
    resources: Resources,
    *,
    name: str,
    environment: Mapping[str, str],
    after: Sequence[str] = (),
) -> BatchExecutor:
    """One that submits to Slurm.

    Args:
        folder: of scripts, pickled arguments and output.
        environment: of the job, on top of the submission's own.
        after: ids of jobs that have to succeed first.
    """
    executor = BatchExecutor(folder, max_num_timeout=_FOR_EVER)
    parameters = resources.parameters()
    parameters["additional_parameters"] |= {"signal": f"B:{SIGNAL}@{resources.signal_seconds}"}
    if after:
        parameters["dependency"] = "afterok:" + ":".join(after)
    setup = [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
    executor.update_parameters(job_name=name, use_srun=False, setup=setup, **parameters)
    return executor


def local_executor(folder: Path, resources: Resources) -> LocalExecutor:
    """One that runs jobs on this machine, in processes of their own."""
    executor = LocalExecutor(folder, max_num_timeout=_FOR_EVER)
    executor.update_parameters(
        timeout_min=minutes_of(resources.time),
        gpus_per_node=resources.gpus_per_node,
        signal_delay_s=resources.signal_seconds,
    )
    return executor
