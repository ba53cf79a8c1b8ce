"""Ours beside its peers, in one run and one table.

    python -m benchmarks.peers [--only NAME] [--quick] [--json PATH]
    python -m benchmarks.peers install [NAME ...]

Each peer runs in its own environment, which is made when it is first needed (build/peers/NAME; a gigabyte for
those with torch). What cannot be installed or measured on a machine is told by name, and the others go on.
`--quick` shows in a few minutes that everything works; its ratios mean nothing.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.peers.comparisons import COMPARISONS, Comparison
from benchmarks.peers.environments import ENVIRONMENTS, FOLDER, find_environment, install
from benchmarks.peers.table import failures, terminal_table
from benchmarks.shared import ROOT
from submission.cli import run
from submission.files import write_text

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@app.callback(invoke_without_command=True)
def compare(
    context: typer.Context,
    only: Annotated[list[str] | None, typer.Option(help="Only this peer. Repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only show that everything works.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Measure and print the table; exit code 1 where a peer failed or an aim is missed."""
    if context.invoked_subcommand:
        return
    chosen = only or list(COMPARISONS)
    for name in chosen:
        if name not in COMPARISONS:
            raise ValueError(f"no peer {name!r}; there are: {', '.join(COMPARISONS)}")
    peers = {}
    for name in chosen:
        peers[name] = measure(name, COMPARISONS[name], quick=quick)
        if out is not None:  # after each, so that an interrupted run keeps what it has
            write_text(out, json.dumps({"quick": quick, "peers": peers}, indent=2) + "\n")
    figures = {"quick": quick, "peers": peers}
    console.print(terminal_table(figures))
    for line in failures(figures):
        console.print(line, style="red", markup=False, highlight=False)
    missed = any(not row["met"] for peer in peers.values() for row in peer["rows"])
    if missed or failures(figures):
        raise typer.Exit(1)


def measure(name: str, comparison: Comparison, *, quick: bool) -> dict[str, Any]:
    """One peer's rows and versions, as `benchmarks.peers.table` reads them; a failure is told in `error`."""
    found: dict[str, Any] = {"title": comparison.title, "versions": {}, "rows": [], "error": ""}
    try:
        options: list[str] = []
        if comparison.environment is not None:
            environment = find_environment(comparison.environment)
            with console.status(f"{name}: its environment"):
                install(environment)
            options = ["--python", str(environment.python)]
        for arguments in (comparison.quick,) if quick else comparison.full:
            with console.status(f"{name}: benchmarks.{comparison.module} {' '.join(arguments)}"):
                figures = run_benchmark(name, comparison.module, [*arguments, *options])
            told = figures["versions"]
            found["versions"] |= {part: told[part] for part in comparison.packages if part in told}
            rows = [asdict(row) for row in comparison.rows(figures)]
            # Ratios that mean nothing miss nothing.
            found["rows"] += [row | {"aim": "", "met": True} for row in rows] if quick else rows
    except ValueError as error:
        found["error"] = str(error)
    console.print(
        f"{name}: {len(found['rows'])} rows" + (", failed" if found["error"] else ""), highlight=False
    )
    return found


def run_benchmark(name: str, module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Figures of `benchmarks.MODULE`; what it prints goes to build/peers/NAME.log.

    Raises:
        ValueError: it wrote none; the message has the end of what it printed.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    log = FOLDER / f"{name}.log"
    with tempfile.TemporaryDirectory() as folder, log.open("w", encoding="utf-8") as file:
        out = Path(folder) / "figures.json"
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--json", str(out)]
        # A missed aim is a figure, too: its code is no failure.
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, check=False).returncode
        if out.exists():
            figures: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
            return figures
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-6:]
    raise ValueError(f"benchmarks.{module} ended with code {code} and no figures\n" + "\n".join(said))


@app.command("install")
def install_command(
    names: Annotated[list[str] | None, typer.Argument(help="Environments; default: all.")] = None,
) -> None:
    """Make the peers' environments; what is there already stays. Exit code 2 where one could not be made."""
    environments = [find_environment(name) for name in names or ENVIRONMENTS]
    failed = []
    for environment in environments:
        try:
            with console.status(f"installing {environment.name}"):
                made = install(environment)
            console.print(f"{environment.name}: {'installed' if made else 'was there'}", highlight=False)
        except ValueError as error:
            failed.append(str(error))
    if failed:
        raise ValueError("\n".join(failed))


if __name__ == "__main__":
    run(app)
