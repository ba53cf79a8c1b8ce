"""Submit training, contests and pipelines to a Slurm cluster, and look after them.

python -m kit.launch grpo kit/recipes/grpo_qwen32b.toml --nodes 4 --gpus-per-node 8 --time 1d --dry-run

python -m kit.launch grpo kit/recipes/grpo_qwen32b.toml lr=1e-6 --nodes 4 --generator-nodes 1 --time 1d

python -m kit.launch distill kit/recipes/distill_cpu.toml --array lr=1e-3,2e-3 --ranks-per-node 2

python -m kit.launch pipeline kit/recipes/pipeline_cpu.toml

python -m kit.launch status runs/grpo_qwen32b

python -m kit.launch logs 1234 --rank 0 --follow

Jobs save and go back into the queue before their time limit, after preemption, and when a node or a process
was lost; they stop when they make no more progress. `--cluster local` runs on this machine, `--cluster debug`
inside this process.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from kit.launch import logs as log_files
from kit.launch.records import RUNS, Cluster, JobRecord, of_job, of_run
from kit.launch.resources import SITE, Resources, option, site_defaults
from kit.launch.spec import LAUNCH, MAX_STALLS, JobSpec, Phase
from kit.launch.states import LIVE, states_of
from kit.launch.sweep import Point, points
from kit.launch.tasks import Task
from submission.cli import run

if TYPE_CHECKING:
    from kit.launch.skipping import Choice

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
console = Console(stderr=True, soft_wrap=True, emoji=False, highlight=False)


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, **more)


Words = Annotated[
    list[str] | None, typer.Argument(help="Settings over the recipe's: section.key=value, or key=value ...")
]
Nodes = Annotated[int, _option("Nodes, those that generate included.", min=1)]
Ranks = Annotated[int, _option("Processes a node. Default: one a GPU.", min=0)]
Gpus = Annotated[int, _option("GPUs that are asked for on each node.", min=0, envvar=SITE["gpus_per_node"])]
Cpus = Annotated[int, _option("CPUs that are asked for on each node.", min=0)]
Generators = Annotated[int, _option("Of grpo: so many of the nodes serve vLLM, the others train.", min=0)]
Partition = Annotated[str, _option("Default: the cluster's.", envvar=SITE["partition"])]
Account = Annotated[str, _option("Whom the time is charged to.", envvar=SITE["account"])]
Time = Annotated[
    str,
    _option(
        "Of one turn: 4h, 90 (minutes), 1d12h. Longer runs go on in their next one.", envvar=SITE["time"]
    ),
]
Memory = Annotated[str, _option("Of a node: 64G; 0 is all of it.", "--mem", envvar=SITE["mem"])]
Further = Annotated[
    list[str] | None, _option("Any further option of sbatch: qos=high. Repeatable.", "--slurm")
]
Signal = Annotated[int, _option("Before the time limit: so long a checkpoint may take.", min=1)]
Stalls = Annotated[int, _option("Starts in a row without progress after which a job gives up.", min=1)]
Where = Annotated[Cluster, _option("slurm, local (this machine), or debug (this process).")]
Arrays = Annotated[
    list[str] | None, _option("A run for each value: lr=1e-6,2e-6. Several make the product.", "--array")
]
After = Annotated[list[str] | None, _option("Job that has to succeed first. Repeatable.", "--after")]
Dry = Annotated[bool, _option("Check everything, print the script and what each node runs.", "--dry-run")]
Estimate = Annotated[
    bool, _option("--no-estimate: where this machine does not see the model.", "--estimate/--no-estimate")
]
Wait = Annotated[bool, _option("Return when all is over, with 1 where a job failed.", "--wait")]
Name = Annotated[str, _option("Of the job. Default: the phase.")]


@app.callback(help=__doc__)
def launch() -> None:
    """One subcommand a phase, one for pipelines, three to look after jobs."""


def _phase(phase: Phase) -> Any:
    def submit_phase(
        recipe: Annotated[Path, typer.Argument(help="A TOML file such as those in kit/recipes.")],
        overrides: Words = None,
        nodes: Nodes = 1,
        ranks_per_node: Ranks = 0,
        gpus_per_node: Gpus = 0,
        cpus_per_node: Cpus = 0,
        generator_nodes: Generators = 0,
        partition: Partition = "",
        account: Account = "",
        time: Time = "4h",
        mem: Memory = "",
        slurm: Further = None,
        signal_seconds: Signal = 120,
        max_stalls: Stalls = MAX_STALLS,
        cluster: Where = "slurm",
        array: Arrays = None,
        after: After = None,
        name: Name = "",
        estimate: Estimate = True,
        dry_run: Dry = False,
        wait: Wait = False,
    ) -> None:
        resources = _resources(locals())
        spec = JobSpec(
            phase, recipe, tuple(overrides or ()), nodes, ranks_per_node, generator_nodes, max_stalls
        )
        out = spec.load_recipe().out
        runs = points(array or (), spec.overrides) if array else [Point(name or phase, ())]
        tasks = []
        for point in runs:
            folder = out / point.name if array else out
            more = (*point.overrides, f"out={folder}") if array else ()
            own = replace(spec, overrides=(*spec.overrides, *more))
            tasks.append(Task(point.name, resources, folder, own))
        _go(tasks, out / LAUNCH, bool(array), after, cluster, fits=estimate, dry=dry_run, wait=wait)

    return submit_phase


for _name, _text in (
    ("distill", "Reasoning distillation of a recipe."),
    ("grpo", "GRPO of a recipe."),
    ("prm", "Process reward model of a recipe."),
):
    app.command(_name, help=_text)(_phase(_name))  # type: ignore[arg-type]  # the names are phases


@app.command("eval", context_settings={"ignore_unknown_options": True})
def evaluate(
    options: Annotated[
        list[str],
        typer.Argument(metavar="--bundle B --problems P ...", help="The options of `python -m submission`."),
    ],
    gpus_per_node: Gpus = 0,
    cpus_per_node: Cpus = 0,
    partition: Partition = "",
    account: Account = "",
    time: Time = "4h",
    mem: Memory = "",
    slurm: Further = None,
    signal_seconds: Signal = 120,
    max_stalls: Stalls = MAX_STALLS,
    cluster: Where = "slurm",
    after: After = None,
    name: Name = "eval",
    dry_run: Dry = False,
    wait: Wait = False,
) -> None:
    """Play a contest with a bundle, on one node. Stopped, it goes on from its journal."""
    resources = _resources(locals())
    spec = JobSpec("eval", overrides=tuple(options), max_stalls=max_stalls)
    task = Task(name, resources, spec.out.parent, spec)
    _go([task], spec.launch_folder, False, after, cluster, fits=False, dry=dry_run, wait=wait)


@app.command()
def pipeline(
    file: Annotated[Path, typer.Argument(help="A TOML file such as kit/recipes/pipeline_cpu.toml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings over the file's: stages.grpo.nodes=4 ...")
    ] = None,
    cluster: Where = "slurm",
    after: After = None,
    estimate: Estimate = True,
    dry_run: Dry = False,
    wait: Wait = False,
    fresh: Annotated[bool, _option("Run every stage, whatever is there.", "--fresh")] = False,
    jobs: Annotated[int, _option("Of --cluster local: so many stages side by side.", min=1)] = 1,
) -> None:
    """Submit stages that wait for each other; one that fails stops those behind it.

    A stage whose inputs have not changed since it succeeded is left out. What other inputs have made in the
    folder of one that runs is renamed, `STAGE.before-TIME`.
    """
    from kit.launch.pipeline import Pipeline, tasks_of
    from kit.launch.skipping import choose
    from kit.launch.snapshot import ROOT

    loaded = Pipeline.load(file, overrides or ())
    tasks = tasks_of(loaded, site_defaults(os.environ))
    choice = choose(tasks, loaded.out, ROOT, cluster=cluster, fresh=fresh)
    left = list(choice.tasks)
    folder = loaded.out / LAUNCH
    _go(left, folder, False, after, cluster, fits=estimate, dry=dry_run, wait=wait, jobs=jobs, choice=choice)


Runs = Annotated[Path, _option("Where to look for the runs.", "--runs")]


@app.command()
def status(
    place: Annotated[Path, typer.Argument(metavar="[RUN]", help="A run's folder, or one of many.")] = RUNS,
) -> None:
    """Show the jobs of a run: state, step, starts, and why one waits or has failed."""
    from kit.launch.status import rows_of, table

    Console().print(table(rows_of(of_run(place))))


@app.command()
def logs(
    job: Annotated[str, typer.Argument(help="Its id.")],
    rank: Annotated[int | None, _option("Of this rank, in the job's last start.", min=0)] = None,
    follow: Annotated[bool, _option("Go on until the job is over.", "--follow")] = False,
    runs: Runs = RUNS,
) -> None:
    """Print what a job, or one of its ranks, has written."""
    record = of_job(job, runs)
    paths = log_files.files_of(record, rank)
    pieces = log_files.follow(paths, lambda: not _live(record)) if follow else log_files.read(paths)
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@app.command()
def cancel(job: Annotated[str, typer.Argument(help="Its id.")], runs: Runs = RUNS) -> None:
    """End a job. It does not come back by itself; its run goes on when it is submitted again."""
    from kit.launch.submit import cancel as end

    record = of_job(job, runs)
    end(record)
    typer.echo(f"{record.name} (job {job}) was cancelled")


def _live(record: JobRecord) -> bool:
    return states_of([record])[record.job].state in LIVE


def _resources(options: dict[str, Any]) -> Resources:
    given = {key: options[key] for key in Resources.model_fields if key in options and key != "slurm"}
    further = dict(option(text) for text in options["slurm"] or ())
    return Resources.parse({**given, "slurm": further}, "the command line")


def _go(
    tasks: list[Task],
    folder: Path,
    array: bool,
    after: list[str] | None,
    cluster: Cluster,
    *,
    fits: bool,
    dry: bool,
    wait: bool,
    jobs: int = 1,
    choice: "Choice | None" = None,
) -> None:
    try:
        from kit.launch import running
        from kit.launch.submit import Launch
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}: launching needs submitit (pip install -e '.[train]')") from error
    made = Launch(tuple(tasks), folder, array, tuple(after or ()))
    if dry:
        running.show(made, cluster, fits=fits, choice=choice)
    else:
        running.start(made, cluster, fits=fits, wait=wait, jobs=jobs, choice=choice)


if __name__ == "__main__":
    run(app)
