"""Submits tasks through submitit: checked first, with a copy of code and recipes, and recorded."""

import datetime
import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from submitit import DebugExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import environment_variables

from kit.launch import snapshot
from kit.launch.check import ask_cluster, check
from kit.launch.estimate import check_recipe
from kit.launch.executors import BatchExecutor, local_executor, slurm_executor
from kit.launch.job import DebugJob, KitJob
from kit.launch.records import Cluster, JobRecord, append, read
from kit.launch.states import states_of
from kit.launch.tasks import Task
from submission.files import write_bytes

OUTPUT = "jobs"
"""Folder of submitit's files, under the launch folder."""
SITE = "AIMO_SITE"
_SUBMITTING = threading.Lock()
"""The environment is one for all threads."""
_VARIABLES = {
    "array": ("ARRAY_INX",),
    "mem": ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU"),
    "requeue": ("REQUEUE", "NO_REQUEUE"),
    "time": ("TIMELIMIT",),
}
"""Of sbatch's variables those that are not named as their options are."""


@dataclass(frozen=True)
class Launch:
    """Tasks that are submitted together.

    Args:
        folder: of snapshot, recipes, submitit's files and the record.
        array: whether they are the runs of one job array.
        after: ids of jobs that have to succeed before any of them.
    """

    tasks: tuple[Task, ...]
    folder: Path
    array: bool = False
    after: tuple[str, ...] = ()


def verify(launch: Launch, *, fits: bool = True) -> None:
    """Everything about the tasks that can be known before a submission.

    Args:
        fits: estimate the memory of every training task, too.

    Raises:
        ValueError: naming the task and what is wrong with it.
    """
    for task in launch.tasks:
        with _naming(task, launch):
            _verify_task(task, launch.tasks, fits=fits)


def verify_cluster(launch: Launch) -> list[str]:
    """Compare what is asked for with what the cluster has; returns what will keep jobs waiting.

    Raises:
        NoSlurmError: there is no cluster here.
        ValueError: a task can never run on it.
    """
    partitions = ask_cluster()
    if not (snapshot.ROOT / "slurm" / "run.sh").is_file():
        raise ValueError(f"{snapshot.ROOT} has no slurm/run.sh: launch from a checkout of the repository")
    found: list[str] = []
    for task in launch.tasks:
        with _naming(task, launch):
            found += check(task.resources.request, partitions)
    return list(dict.fromkeys(found))


def _verify_task(task: Task, tasks: Sequence[Task], *, fits: bool) -> None:
    spec = task.spec
    if spec is None or spec.phase == "eval":
        return
    recipe = spec.load_recipe()
    if not fits:
        return
    made = [other.out for other in tasks if other is not task]
    model = _model_of(Path(recipe.model.path), tasks)
    if model is not None:
        check_recipe(spec, task.ranks, model=str(model), made=made)


def _model_of(path: Path, tasks: Sequence[Task]) -> Path | None:
    """A model of the same shape that is there: that which an earlier stage starts from, where it trains this.

    None where a plain command makes it: nobody knows its shape yet.
    """
    for _ in tasks:
        owner = next((task for task in tasks if path.is_relative_to(task.out)), None)
        if owner is None:
            return path
        if owner.spec is None or owner.spec.phase == "eval":
            return None
        path = Path(owner.spec.load_recipe().model.path)
    return None


def refuse_nodes(launch: Launch, cluster: Cluster) -> None:
    """Refuse more than one node on this machine."""
    for task in launch.tasks:
        if task.resources.nodes > 1:
            raise ValueError(
                f"{task.name}: --nodes {task.resources.nodes} --cluster {cluster}: this machine is one node"
            )


def refuse_busy(launch: Launch) -> None:
    """Refuse a run that a job is at work on, or waits to be."""
    folders = {task.out.resolve() for task in launch.tasks}
    earlier = [record for record in read(launch.folder) if record.out.resolve() in folders]
    states = states_of(earlier)
    for record in earlier:
        if states[record.job].live:
            raise ValueError(
                f"job {record.job} ({record.name}, {states[record.job].state}) is for {record.out} already: "
                f"cancel it (python -m kit.launch cancel {record.job}), or give another folder with out=..."
            )


def plan(launch: Launch) -> list[tuple[Task, str]]:
    """The script of each task on Slurm, one for a whole array, without writing anything."""
    copied = snapshot.plan(launch.folder)
    if launch.array:
        first = launch.tasks[0]
        return [(first, _executor(launch, first, copied, launch.after).script(len(launch.tasks)))]
    return [
        (task, _executor(launch, task, copied, (*launch.after, *task.after)).script())
        for task in launch.tasks
    ]


def submit(launch: Launch, said: Callable[[JobRecord], None]) -> list[JobRecord]:
    """Submit to Slurm and record; `said` is told of each job.

    Raises:
        ValueError: Slurm refuses one: those before it are cancelled.
    """
    copied = snapshot.take(launch.folder)
    tasks = [_frozen(task, launch.folder) for task in launch.tasks]
    records: list[JobRecord] = []
    try:
        if launch.array:
            executor = _executor(launch, tasks[0], copied, launch.after)
            with _without(executor.script(len(tasks))):
                jobs = executor.submit_array([_job(task) for task in tasks])
            records = [
                _record(launch, task, job.job_id, "slurm", ()) for task, job in zip(tasks, jobs, strict=True)
            ]
        else:
            for task in tasks:
                names = {record.name: record.job for record in records}
                after = (*launch.after, *(names[name] for name in task.after))
                executor = _executor(launch, task, copied, after)
                with _without(executor.script()):
                    job = executor.submit(_job(task))
                records.append(_record(launch, task, job.job_id, "slurm", after))
    except (FailedJobError, FailedSubmissionError) as error:
        for record in records:
            cancel(record)
        undone = f" ({len(records)} jobs before it were cancelled)" if records else ""
        raise ValueError(f"Slurm refuses the job: {str(error).strip()}{undone}") from error
    for record in records:
        append(launch.folder, record)
        said(record)
    return records


@contextmanager
def _without(script: str) -> Iterator[None]:
    """Without the variables that sbatch would take in place of what the script says."""
    variables = set()
    for key in re.findall(r"^#SBATCH --([a-z-]+)", script, flags=re.MULTILINE):
        variables |= {f"SBATCH_{name}" for name in _VARIABLES.get(key, (key.upper().replace("-", "_"),))}
    kept = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def run_local(
    launch: Launch,
    task: Task,
    copied: snapshot.Snapshot,
    watch: Callable[[JobRecord, Callable[[], bool]], None],
    *,
    threads: int = 0,
) -> JobRecord:
    """Run one task on this machine to its end; may be called from several threads.

    Args:
        watch: is given the task's record and whether it is over.
        threads: of each of its processes, where the environment does not say; 0 leaves it to them.
    """
    task = _frozen(task, launch.folder)
    executor = local_executor(launch.folder / OUTPUT, task.resources)
    with _SUBMITTING:
        path = [str(copied.folder), str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
        more = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))} if threads else {}
        with environment_variables(PYTHONPATH=os.pathsep.join(path), PYTHONSAFEPATH="1", **more):
            job = executor.submit(_job(task))
    record = _record(launch, task, job.job_id, "local", ())
    append(launch.folder, record)
    watch(record, job.done)
    return record


def run_debug(launch: Launch, task: Task) -> int:
    """Run a phase in this process; returns its exit code."""
    if task.spec is None:
        raise ValueError(f"{task.name} is a plain command: --cluster debug runs phases, inside this process")
    job = DebugExecutor(launch.folder / OUTPUT).submit(DebugJob(tuple(task.spec.to_args())))
    result = job.result()
    if isinstance(result, ValueError):
        raise result
    return result


def cancel(record: JobRecord) -> None:
    """End a job.

    Raises:
        ValueError: Slurm refuses, or the job runs on this machine.
    """
    if record.cluster != "slurm":
        raise ValueError(f"job {record.job} runs on this machine: stop it with Ctrl-C where it was started")
    done = subprocess.run(["scancel", record.job], capture_output=True, text=True, timeout=60, check=False)  # noqa: S607  # the site's own
    if done.returncode:
        raise ValueError(f"scancel {record.job}: {done.stderr.strip()}")


def _executor(launch: Launch, task: Task, copied: snapshot.Snapshot, after: Sequence[str]) -> BatchExecutor:
    return slurm_executor(
        launch.folder.absolute() / OUTPUT,
        task.resources,
        name=f"aimo-{task.name}",
        environment=environment_of(copied),
        after=after,
    )


def environment_of(copied: snapshot.Snapshot) -> Mapping[str, str]:
    """What slurm/run.sh reads: the code, the interpreter, and the site's settings."""
    found = {"AIMO_ROOT": str(copied.folder), "AIMO_PYTHON": sys.executable}
    site = Path(os.environ.get(SITE, snapshot.ROOT / "slurm" / "site.env"))
    return {**found, SITE: str(site.absolute())} if site.is_file() else found


def _job(task: Task) -> KitJob:
    words = task.command if task.spec is None else tuple(task.spec.to_args())
    return KitJob(words, task.spec is not None, task.launch, task.resources.gpus_per_node, task.stage)


def _frozen(task: Task, folder: Path) -> Task:
    """The task with a copy of its recipe, named by its contents."""
    if task.spec is None or task.spec.recipe is None:
        return task
    recipe = task.spec.recipe
    content = recipe.read_bytes()
    copy = folder / f"{recipe.stem}-{hashlib.sha256(content).hexdigest()[:8]}{recipe.suffix}"
    if not copy.exists():
        write_bytes(copy, content)
    return replace(task, spec=replace(task.spec, recipe=copy))


def _record(launch: Launch, task: Task, job: str, cluster: Cluster, after: Sequence[str]) -> JobRecord:
    return JobRecord(
        job=job,
        cluster=cluster,
        name=task.name,
        command=task.words,
        out=task.out.absolute(),
        launch=task.launch.absolute(),
        logs=launch.folder.absolute() / OUTPUT,
        nodes=task.resources.nodes,
        after=tuple(after),
        submitted=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    )


@contextmanager
def _naming(task: Task, launch: Launch) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{task.name}: {error}" if len(launch.tasks) > 1 else str(error)) from error
