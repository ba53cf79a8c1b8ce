"""Read public sets, clean them step by step, write the records and a data card.

python -m kit.data kit/recipes/data_math.toml root=data out=runs/data/math

python -m kit.data kit/recipes/data_bespoke.toml duplicates.completions=2 --dry-run

The folder `out` gets records.jsonl (what `kit.train` reads), card.md and card.json, and recipe.json.
Exit code 2: the recipe or a set is wrong, or a step left nothing; one line says what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from kit.data.card import Card
from kit.data.clean import CARD_FILE, RECORDS_FILE, Watch, clean, preview
from kit.data.recipe import DataRecipe, StepName
from kit.data.sources import Source
from kit.data.steps.base import Tick
from submission.cli import run

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
console = Console(stderr=True, soft_wrap=True, emoji=False)


def _settings() -> str:
    """For --help: the steps with their settings and defaults, as the recipe has them."""
    recipe = DataRecipe(sources={"x": Source(path="x")}, steps=())
    lines = ["Steps, with the settings of each as they are if a recipe does not say otherwise:"]
    for name in get_args(StepName):
        values = getattr(recipe, name).model_dump(mode="json")
        lines.append(f"`{name}`: " + ", ".join(f"{key}={value!r}" for key, value in values.items()))
    return "\n\n".join(lines)


@app.command(help=__doc__, epilog=_settings())
def data(
    recipe: Annotated[
        Path, typer.Argument(help="Recipe (TOML); the shipped ones are kit/recipes/data_*.toml.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Change a setting: out=runs/x verify.workers=8."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read a few rows of every set, show the plan, write nothing.")
    ] = False,
) -> None:
    """Clean sets by a recipe."""
    chosen = DataRecipe.load(recipe, overrides or ())
    if dry_run:
        _show_plan(chosen)
        return
    with _bars() as watch:
        card = clean(chosen, watch)
    _show_card(card, chosen.out)


@contextmanager
def _bars() -> Iterator[Watch]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:

        def watch(title: str, total: int | None) -> Tick:
            for before in progress.task_ids:
                progress.stop_task(before)
            task = progress.add_task(title, total=total)
            return lambda: progress.advance(task)

        yield watch


def _show_plan(recipe: DataRecipe) -> None:
    for name, records in preview(recipe):
        first = records[0]
        has = ", ".join(part for part in ("answer", "completion", "system", "level") if getattr(first, part))
        typer.echo(f"{name}: readable; first problem {first.problem[:70]!r} with {has or 'nothing else'}")
    for number, (name, _) in enumerate(recipe.chosen(), 1):
        typer.echo(f"{number}. {name}: {getattr(recipe, name).model_dump(mode='json')}")
    typer.echo(f"would write {recipe.out / RECORDS_FILE} and {recipe.out / CARD_FILE}")


def _show_card(card: Card, out: Path) -> None:
    table = Table("step", "in", "out", "dropped because")
    for step in card.steps:
        why = "\n".join(f"{count:,} {reason}" for reason, count in step.reasons.items())
        table.add_row(step.name, f"{step.before:,}", f"{step.kept:,}", Text(why))
    Console().print(table)
    unreadable = sum(source.unreadable for source in card.sources)
    if unreadable:
        console.print(f"NOTE: {unreadable:,} rows could not be read; the card says why.", style="yellow")
    typer.echo(
        f"{out / RECORDS_FILE}: {card.records:,} records of {card.problems:,} problems; see {out / CARD_FILE}"
    )


if __name__ == "__main__":
    run(app)
