"""Make a checkpoint into an offline contest bundle, verify one, or rehearse its install and one problem.

python -m kit.package --model DIR --out bundles/aimo --profile aimo3

python -m kit.package verify bundles/aimo

python -m kit.package rehearse bundles/aimo
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from kit.package import wheels
from kit.package.build import Built, build
from kit.package.contents import Plan, plan
from kit.package.swap import check_output
from kit.package.targets import GRAMMAR, Target
from submission import bundle
from submission.agents.team import load_team
from submission.checkpoint import Checkpoint, inspect
from submission.cli import run
from submission.prm.heads import check_prm
from submission.selection.calibration import load_calibration
from submission.settings import ContestSettings, profile_path

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
console = Console(stderr=True, soft_wrap=True, emoji=False)
DEFAULT_MODEL_NOTE = (
    "This is the kit's default model (135M parameters): it proves that the whole way works, but it solves "
    "little beyond one-step arithmetic."
)


@app.callback(invoke_without_command=True, help=__doc__)
def package(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint folder. Default: the kit's small model.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the bundle; an older bundle is replaced.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Shipped contest profile: aimo2, aimo3, demo.")] = "aimo3",
    settings: Annotated[
        Path | None, typer.Option(help="Contest settings (TOML) in place of a profile.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: solver.num_agents=16. Repeatable.")
    ] = None,
    team: Annotated[
        str | None, typer.Option(help="A shipped team (solo, tools, mixed, qwen, gpt_oss) or a TOML file.")
    ] = None,
    prm: Annotated[
        Path | None, typer.Option(help="Checkpoint folder of a process reward model, to go along.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="How to vote: what `python -m kit.calibrate` has written.")
    ] = None,
    target: Annotated[str | None, typer.Option(help=f"{GRAMMAR}. Default: this machine.")] = None,
    kaggle_user: Annotated[str | None, typer.Option(help="Your Kaggle user name, for the metadata.")] = None,
    wheel_cache: Annotated[
        Path,
        typer.Option(help="Where downloaded wheels are kept.", show_default="the repository's build/wheels"),
    ] = wheels.ROOT / "build" / "wheels",
    with_wheels: Annotated[
        bool, typer.Option("--wheels/--no-wheels", help="--no-wheels: quick, but cannot be installed.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option(help="Check everything, say what would be built, write nothing.")
    ] = False,
) -> None:
    """Build a bundle (the default command)."""
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise ValueError("--out is missing: name the bundle's folder, for example --out bundles/aimo")
    contest = ContestSettings.load(settings or profile_path(profile), overrides or ())
    if team is not None:
        contest = contest.model_copy(update={"team": load_team(team)})
    if calibration is not None:
        load_calibration(calibration)
    if prm is not None:
        check_prm(prm)
    wanted = Target.parse(target) if target else Target.local()
    check_output(out.absolute())
    model_note = None if model else DEFAULT_MODEL_NOTE
    checkpoint = inspect(model or _default_model())
    house = None
    if with_wheels and not dry_run:
        console.print(f"wheels for {wanted.name} (kept in {wheel_cache / wanted.name})", markup=False)
        house = wheels.wheelhouse(wanted, wheel_cache)
    planned = plan(
        checkpoint,
        contest,
        wanted,
        house,
        prm=inspect(prm, prm=True) if prm else None,
        calibration=calibration,
        kaggle_user=kaggle_user,
        model_note=model_note,
    )
    if dry_run:
        _show_plan(planned, checkpoint, wanted, with_wheels=with_wheels)
        return
    with _bytes_bar(f"building {out}", planned.size) as progress:
        built = build(planned, out, progress)
    _show_built(built, planned, out)


def _default_model() -> Path:
    from kit.models import default_model

    console.print(
        f"NOTE: no --model given. {DEFAULT_MODEL_NOTE} Give --model for a contest.", style="bold yellow"
    )
    return default_model()


@app.command()
def verify(folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")]) -> None:
    """Compare every file of a bundle with its manifest; exit code 1 when one differs."""
    manifest = bundle.Bundle.open(folder).manifest
    size = sum(entry.size for entry in manifest.entries)
    with _bytes_bar(f"verifying {folder}", size) as progress:
        problems = bundle.verify(folder, progress)
    for problem in problems:
        path = problem.path.encode("utf-8", "backslashreplace").decode("utf-8")
        typer.echo(f"{problem.kind}: {path} {problem.message}", err=True)
    if problems:
        typer.echo(f"{folder}: {len(problems)} problems in {len(manifest.entries)} files", err=True)
        raise typer.Exit(1)
    typer.echo(
        f"{folder}: {len(manifest.entries)} files, {size:,} bytes, as built; manifest {manifest.digest}"
    )


@app.command()
def rehearse(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    problem: Annotated[str | None, typer.Option(help="The problem to solve. Default: a simple sum.")] = None,
    python: Annotated[Path | None, typer.Option(help="The target's Python. Default: this one.")] = None,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds for the contest of one problem.")] = 600.0,
) -> None:
    """Install a bundle into an empty environment without a network and solve one problem with it."""
    from kit.package.rehearse import DEFAULT_PROBLEM, rehearse_bundle

    record = rehearse_bundle(
        folder,
        problem=problem or DEFAULT_PROBLEM,
        python=str(python) if python else sys.executable,
        time_limit=time_limit,
        console=console,
    )
    table = Table("step", "seconds", "outcome")
    for step in record.steps:
        table.add_row(step.name, f"{step.seconds:.1f}", Text(step.outcome))
    Console().print(table)
    typer.echo(f"record: {record.path}")


@contextmanager
def _bytes_bar(title: str, total: int) -> Iterator[bundle.Progress]:
    # No markup: the title holds a path.
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def _show_plan(planned: Plan, checkpoint: Checkpoint, target: Target, *, with_wheels: bool) -> None:
    typer.echo(f"would build for {target.name}: {checkpoint.architecture} {checkpoint.name}")
    for item in planned.items:
        typer.echo(f"  {item.size:>14,}  {item.path}")
    if with_wheels:
        typer.echo(f"  and wheels for {', '.join(wheels.requirements(target))}")
    _show_left_out(planned)


def _show_left_out(planned: Plan) -> None:
    for note in planned.manifest["left_out"]:
        console.print(f"left out: {note['path']} ({note['reason']})", markup=False, highlight=False)


def _show_built(built: Built, planned: Plan, out: Path) -> None:
    _show_left_out(planned)
    model = planned.manifest["model"]
    if model["license"] is None:
        console.print("NOTE: the checkpoint states no licence; contests ask for one.", style="yellow")
    if not planned.manifest["wheels"]:
        console.print("NOTE: built without wheels: it cannot be installed or rehearsed.", style="yellow")
    table = Table("part", "MB")
    for part, size in sorted(built.sizes.items()):
        table.add_row(Text(part), f"{size / 1e6:,.1f}")
    table.add_row("total", f"{sum(built.sizes.values()) / 1e6:,.1f}", style="bold")
    Console().print(table)
    typer.echo(f"{out}: {model['name']} for {planned.manifest['target']}, manifest {built.digest}")


if __name__ == "__main__":
    run(app)
