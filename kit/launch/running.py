"""What the command line does with a launch: shows it, submits it, waits for it."""

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console

from kit.launch import generators, slurm, snapshot
from kit.launch.attempts import attempt_folder
from kit.launch.check import NoSlurmError
from kit.launch.records import Cluster, JobRecord
from kit.launch.side_by_side import Machine
from kit.launch.skipping import Choice
from kit.launch.spec import JobSpec
from kit.launch.stages import StageFolder
from kit.launch.states import UNKNOWN
from kit.launch.status import Row, rows_of, table
from kit.launch.submit import (
    Launch,
    environment_of,
    plan,
    refuse_busy,
    refuse_nodes,
    run_debug,
    submit,
    verify,
    verify_cluster,
)
from kit.launch.tasks import Task

_POLL = 3.0  # seconds between two questions to Slurm
console = Console(stderr=True, soft_wrap=True, emoji=False, highlight=False)


def show(launch: Launch, cluster: Cluster, *, fits: bool, choice: Choice | None = None) -> None:
    """Print what would be submitted and what each node would run, after the checks of a submission."""
    if choice is not None:
        _tell(choice)
    if not launch.tasks:
        return
    verify(launch, fits=fits)
    if cluster != "slurm":
        refuse_nodes(launch, cluster)
    else:
        try:
            _warn(verify_cluster(launch))
        except NoSlurmError as error:
            _warn([f"not compared with a cluster: {error}"])
        for task, script in plan(launch):
            typer.echo(f"# sbatch: {task.name if not launch.array else f'{len(launch.tasks)} runs'}")
            typer.echo(script)
    for task in launch.tasks:
        for line in lines_of(task):
            typer.echo(line)
    if cluster != "debug":
        typer.echo("# with the environment")
        for key, value in environment_of(snapshot.plan(launch.folder)).items():
            typer.echo(f"{key}={shlex.quote(value)}")
        typer.echo("PYTHONPATH=$AIMO_ROOT:$PWD PYTHONSAFEPATH=1")


def lines_of(task: Task) -> Iterator[str]:
    """What each node of a task runs, as lines to read."""
    spec = task.spec
    if spec is None:
        yield f"# {task.name}: one node runs"
        yield shlex.join(task.command)
        return
    if spec.phase == "eval":
        yield f"# {task.name}: one node runs"
        yield shlex.join(["python", "-m", "submission", *spec.overrides])
        return
    hosts = tuple(f"NODE{number}" for number in range(1, spec.nodes + 1))
    ranks = spec.ranks_per_node or task.resources.gpus_per_node
    many = f"{ranks} ranks" if ranks else "a rank for each of its GPUs, or one,"
    trainers = hosts[: spec.training_nodes]
    attempt = attempt_folder(task.launch, "JOB", 0)
    yield f"# {task.name}: {_count(len(trainers), 'node')}, each {many} of"
    yield shlex.join(["python", "-m", "kit.train", spec.phase, str(spec.recipe), *spec.overrides])
    yield "# started by"
    start = ["slurm/run.sh", "kit.launch.node", str(attempt)]
    yield shlex.join(slurm.step_command(trainers, start, []))
    if spec.generator_nodes:
        yield f"# {task.name}: {_count(spec.generator_nodes, 'node')}, for every engine that fits its GPUs"
        yield shlex.join(_engine(spec))
        yield "# started by"
        yield shlex.join(slurm.step_command(hosts[spec.training_nodes :], start, []))


def _engine(spec: JobSpec) -> list[str]:
    from kit.grpo.recipe import GrpoRecipe

    recipe = spec.load_recipe()
    assert isinstance(recipe, GrpoRecipe)
    words = generators.command(recipe, "NODE:1", Path("SECRET"))
    words[words.index("--port") + 1] = "PORT"
    return ["python", *words[1:]]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def start(
    launch: Launch, cluster: Cluster, *, fits: bool, wait: bool, jobs: int = 1, choice: Choice | None = None
) -> None:
    """Check and submit; on this machine also run. Exits with 1 where a job that was waited for failed.

    Args:
        jobs: on this machine, side by side.
        choice: of a pipeline, which of its stages these are.
    """
    if choice is not None:
        _tell(choice)
    if not launch.tasks:
        return
    verify(launch, fits=fits)
    if cluster != "slurm":
        refuse_nodes(launch, cluster)
    if cluster == "debug":
        for task in launch.tasks:
            if code := run_debug(launch, task):
                raise typer.Exit(code)
        return
    if cluster == "local":
        refuse_busy(launch)
        _plan(launch, choice)
        usual, why = (choice.usual, choice.why) if choice else ({}, {})
        if not Machine(launch, jobs, console, usual=usual, why=why).run():
            raise typer.Exit(1)
        return
    _warn(verify_cluster(launch))
    refuse_busy(launch)
    _plan(launch, choice)
    records = submit(launch, _submitted)
    console.print(f"python -m kit.launch status {launch.folder.parent}", markup=False)
    if wait and not _wait(records):
        raise typer.Exit(1)


def _tell(choice: Choice) -> None:
    """Which stages are left out, since what they would make is there."""
    if choice.skipped:
        left = "all stages" if not choice.tasks else ", ".join(choice.skipped)
        console.print(f"unchanged, not run again: {left}", markup=False)


def _plan(launch: Launch, choice: Choice | None) -> None:
    if choice is not None:
        StageFolder(launch.folder.parent).plan(choice.plan)


def _submitted(record: JobRecord) -> None:
    behind = f", after {', '.join(record.after)}" if record.after else ""
    console.print(f"{record.name}: job {record.job} on {_count(record.nodes, 'node')}{behind}", markup=False)


def _warn(notes: list[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", style="yellow", markup=False)


def _wait(records: list[JobRecord]) -> bool:
    """Until all are over; tells each change. Whether all succeeded."""
    told: dict[str, str] = {}
    while True:
        rows = rows_of(records)
        for row in rows:
            line = _line(row)
            if told.get(row.record.job) != line:
                told[row.record.job] = line
                console.print(line, markup=False, style="red" if row.state.bad else "")
        if not any(row.state.live or row.state.state == UNKNOWN for row in rows):
            Console(stderr=True).print(table(rows))
            return not any(row.state.bad for row in rows)
        time.sleep(_POLL)


def _line(row: Row) -> str:
    return f"{row.record.name} (job {row.record.job}): {row.state.state}" + (
        f", {row.why}" if row.why else ""
    )
