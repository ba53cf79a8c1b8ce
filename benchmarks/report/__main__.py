"""Command line of `python -m benchmarks.report RUN`: the page of a finished run, made anew."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from benchmarks.report.page import write_page
from submission.cli import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of benchmarks.run.")],
    out: Annotated[Path | None, typer.Option(help="Page. Default: report.html in the run's folder.")] = None,
) -> None:
    """Write the page of a finished run."""
    path = write_page(folder, out)
    Console().print(Text(f"page       {path}"), soft_wrap=True)


if __name__ == "__main__":
    run(app)
