"""One node's task in a job: starts and watches its ranks (torchrun), its engines, or a contest.

    python -m kit.launch.node ATTEMPT_FOLDER        (started on each node by kit.launch.batch, through srun)

Who it is, it reads from its own environment: nothing that differs by node is in its arguments. Slurm's
signals are for the ranks, which get them too or read the stop file; this one stays to tell how they ended.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from kit.launch import slurm
from kit.launch.attempts import History, Plan, asked_to_stop, log_folder, progress, tell_end
from kit.launch.loading import without_collections
from kit.launch.requeue import Ending, decide
from kit.launch.spec import JobSpec

_ASK_SECONDS = (0.0, 1.0, 3.0)
_POLL = 0.5


def main(attempt: Path) -> int:
    """Do what the plan has for this node; returns the exit code of its task."""
    plan = Plan.read(attempt / "plan.json")
    host = os.environ["SLURMD_NODENAME"]
    if host in plan.generators:
        from kit.launch.generators import serve

        return serve(attempt, plan, host)
    guard = Guard(attempt, plan) if host == plan.hosts[0] else None
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, guard.note if guard else _ignore)
    if guard:  # slurm/run.sh ignores SIGTERM before
        guard.note(signal.SIGTERM, None)
    try:
        return play(attempt, plan) if plan.spec.phase == "eval" else train(attempt, plan, host)
    finally:
        if guard:
            guard.wait()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler and not SIG_IGN, which children would inherit."""


class Guard:
    """On the job's first node: brings the job back when its batch script was killed (kill -9, out of memory).

    Slurm calls such a job failed and ends its steps, SIGTERM first: the only moment at which anything of the
    job still runs. A job that was cancelled, preempted or has reached its time limit is let go.
    """

    def __init__(self, attempt: Path, plan: Plan) -> None:
        self._attempt, self._plan = attempt, plan
        self._thread: threading.Thread | None = None
        self._done = False

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: look after the batch script on SIGTERM."""
        if number == signal.SIGTERM and not self._done and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._look, name="guard", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Let it come to its end, where it has something to do."""
        if self._thread is not None:
            self._thread.join(sum(_ASK_SECONDS))

    def _look(self) -> None:
        for pause in _ASK_SECONDS:
            time.sleep(pause)
            with contextlib.suppress(ValueError):  # Slurm is busy: ask again
                if slurm.state_of(self._plan.job).script_killed:
                    self._done = True
                    self._bring_back()
                    return

    def _bring_back(self) -> None:
        spec, folder = self._plan.spec, self._attempt.parent
        ending = Ending("failed", "the batch script was killed")
        history = History.load(folder).with_end(ending.reason)
        decision = decide(history.starts(self._plan.job), progress(spec), ending, spec.max_stalls)
        history.save(folder)
        sys.stderr.write(f"{self._attempt.name}: {decision.message}\n")
        if decision.requeue:
            slurm.requeue(self._plan.job)


def rank_count(spec: JobSpec) -> int:
    """Ranks on this node: as asked for, else one for each of the job's GPUs here, else one."""
    return spec.ranks_per_node or int(os.environ.get("SLURM_GPUS_ON_NODE") or 0) or 1


def train(attempt: Path, plan: Plan, host: str) -> int:
    """Run this node's ranks under torchrun's agent; returns 0 if all of them ended well."""
    with without_collections():
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    ranks = rank_count(plan.spec)
    if ranks > 1:  # as torchrun does: each process would take all cores
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    logs = log_folder(attempt, host)
    first = host == plan.trainers[0]
    config = LaunchConfig(
        min_nodes=len(plan.trainers),
        max_nodes=len(plan.trainers),
        nproc_per_node=ranks,
        run_id=attempt.name,
        role="rank",
        rdzv_backend="static",
        rdzv_endpoint=f"{plan.trainers[0]}:{plan.port}",
        rdzv_configs={"rank": plan.trainers.index(host), "timeout": 900},
        max_restarts=0,
        signals_to_handle="SIGINT",
        # All ranks' output goes to files, the first rank's to the job's own as well.
        logs_specs=DefaultLogsSpecs(
            log_dir=str(logs), redirects=Std.ALL, tee=Std.ALL if first else Std.NONE, local_ranks_filter={0}
        ),
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "kit.launch.rank", str(attempt))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"died by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tell_end(attempt, f"node-{host}", "failed", f"rank {rank} on {host} {how}; its log is under {logs}")
        return 1
    return 0


def play(attempt: Path, plan: Plan) -> int:
    """Run a contest, on from its journal where the job was here before; a stop ends it, the journal stays."""
    words = [word for word in plan.spec.overrides if word != "--fresh" or attempt.name.endswith(".0")]
    process = subprocess.Popen([sys.executable, "-m", "submission", *words])
    stopped = False
    while process.poll() is None:
        if not stopped and asked_to_stop(attempt):
            stopped = True
            process.terminate()
        time.sleep(_POLL)
    if stopped and process.returncode:
        tell_end(attempt, "contest", "stopped", "the contest was stopped; its journal has the answers so far")
        return 0
    if process.returncode:
        kind = "mistake" if process.returncode == 2 else "failed"
        tell_end(attempt, "contest", kind, f"the contest ended with exit code {process.returncode}")  # type: ignore[arg-type]
    code: int = process.returncode
    return min(abs(code), 255)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
