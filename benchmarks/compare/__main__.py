"""Command line of `python -m benchmarks.compare A B ...`: which run to submit, as a page and here."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.compare.page import Verdict, differing, judge, write_comparison
from benchmarks.compare.pooling import pool
from benchmarks.report.loading import read_finished
from submission.cli import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of benchmarks.run.")],
    sets: Annotated[
        str, typer.Option("--set", help="Sets to decide on, by commas. Default: all that the runs share.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("comparison.html"),
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Say which of several runs to submit, or that the data cannot tell."""
    only = [name.strip() for name in sets.split(",") if name.strip()]
    verdict = judge(pool([read_finished(folder) for folder in folders], only), seed=seed)
    write_comparison(verdict, out)
    show(verdict, Console())
    Console().print(Text(f"page       {out}"), soft_wrap=True)


def show(verdict: Verdict, console: Console) -> None:
    """The runs, their pairs, and the verdict, on a terminal."""
    decision, pooled = verdict.decision, verdict.pooled
    entries = {one.letter: one for one in pooled.entries}
    table = Table(title=Text(f"{', '.join(pooled.sets)}: {len(pooled.problems)} problems"))
    table.add_column("run")
    for title in ("repeats", "accuracy (95 %)", "twice-run", "minutes", "tokens"):
        table.add_column(title, justify="right")
    for name in decision.order:
        one, standing = entries[name], decision.standings[name]
        mean, low, high = (100 * side for side in standing.accuracy)
        table.add_row(
            Text(f"{name} {one.run.folder.name}"),
            str(one.right.shape[0]),
            f"{mean:.1f} ({low:.1f} to {high:.1f})",
            f"{standing.twice.score:.1f}",
            f"{one.minutes:.1f}",
            f"{one.tokens:,.0f}",
        )
    console.print(table)
    pairs = Table(title=Text("the better above the worse"))
    pairs.add_column("pair")
    interval = f"points ({100 * decision.level:.1f} %)"
    for title in (interval, "better/worse on", "p", "McNemar", "least shown", "told"):
        pairs.add_column(title, justify="right")
    for pair in decision.pairs:
        mean, low, high = (100 * side for side in pair.difference)
        pairs.add_row(
            f"{pair.better} - {pair.worse}",
            f"{mean:.1f} ({low:.1f} to {high:.1f})",
            f"{pair.wins}/{pair.losses}",
            f"{pair.p_value:.3f}",
            f"{pair.mcnemar:.3f}",
            f"{100 * pair.least:.1f}" if pair.least <= 1 else "none",
            "yes" if pair.clear else "no",
        )
    console.print(pairs)
    for name, what in differing(pooled).items():
        console.print(Text(f"{name}: {what}"), soft_wrap=True)
        for trouble in entries[name].troubles:
            console.print(Text(f"{name}: {trouble}", "bold red"), soft_wrap=True)
    if pooled.dropped:
        line = f"{pooled.dropped} problems were in a run's training data and are left out"
        console.print(Text(line, "yellow"), soft_wrap=True)
    for note in pooled.notes:
        console.print(Text(note, "yellow"), soft_wrap=True)
    told = Text(" ".join(verdict.told), "bold green" if decision.told else "bold yellow")
    console.print(told, soft_wrap=True)


if __name__ == "__main__":
    run(app)
