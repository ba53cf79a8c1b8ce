"""What the packager shows a person: progress, tables, notes. Names and paths are shown as they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
from kit.package.build import Built
from kit.package.contents import Plan
from kit.package.interpreter import why_not_here
from kit.package.targets import Target
from submission import bundle
from submission.checkpoint import Checkpoint

console = Console(stderr=True, soft_wrap=True, emoji=False)


@contextmanager
def bytes_bar(title: str, total: int) -> Iterator[bundle.Progress]:
    """A progress bar of `total` bytes on the error stream; give the bytes just done to what it yields."""
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


@contextmanager
def working(title: str) -> Iterator[Callable[[str], None]]:
    """A line on the error stream that says what is being done; give what is done now to what it yields."""
    with console.status(Text(title)) as status:

        def say(line: str) -> None:
            status.update(Text(f"{title}: {line[:150]}"))
            if not console.is_terminal:
                console.print(Text(f"{title}: {line}"), highlight=False)

        yield say


def note(text: str, style: str = "yellow") -> None:
    """One line that a person should see, on the error stream."""
    console.print(Text(f"NOTE: {text}", style=style), highlight=False)


def show_target(target: Target) -> None:
    """Say so where a bundle for this target cannot be rehearsed on this machine."""
    reason = why_not_here(target)
    if reason:
        note(f"{target.name} is not rehearsed here: {reason}; its wheels are checked all the same.")


def show_table(table: Table) -> None:
    """A table on the output stream; in a file or pipe as wide as its words, so that none is cut."""
    output = Console(emoji=False)
    if not output.is_terminal:
        output = Console(emoji=False, width=400)
        table.box = None
    output.print(table)


def show_plan(planned: Plan, checkpoint: Checkpoint, target: Target, *, with_wheels: bool) -> None:
    """What a dry run would build."""
    typer.echo(f"would build for {target.name}: {checkpoint.architecture} {checkpoint.name}")
    for item in planned.items:
        typer.echo(f"  {item.size:>14,}  {item.path}")
    if with_wheels:
        typer.echo(f"  and wheels for {', '.join(wheels.requirements(target))}")
    _show_left_out(planned)


def show_built(built: Built, planned: Plan) -> None:
    """What was built: notes, megabytes by part, and the digest that names it."""
    _show_left_out(planned)
    model = planned.manifest["model"]
    if model["license"] is None:
        note("the checkpoint states no licence; contests ask for one.")
    if not planned.manifest["wheels"]:
        note("built without wheels: it cannot be installed or rehearsed.")
    table = Table("part", "MB")
    for part, size in sorted(built.sizes.items()):
        table.add_row(Text(part), f"{size / 1e6:,.1f}")
    table.add_row("total", f"{sum(built.sizes.values()) / 1e6:,.1f}", style="bold")
    Console().print(table)
    typer.echo(f"{built.folder}: {model['name']} for {planned.manifest['target']}, manifest {built.digest}")


def _show_left_out(planned: Plan) -> None:
    for left in planned.manifest["left_out"]:
        console.print(f"left out: {left['path']} ({left['reason']})", markup=False, highlight=False)
