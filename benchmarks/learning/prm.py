"""Proof that a process reward model learns, at a size that runs on two CPU cores in minutes.

    python -m benchmarks.learning prm [--quick] [--json FILE]

See `prm.toml` for the sizes. A study that was stopped goes on where it was.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.learning import prm_report, prm_study
from benchmarks.learning.prm_settings import PRM, PrmStudy
from benchmarks.learning.starts import read_results
from benchmarks.shared import ROOT
from submission.cli import run
from submission.files import write_text

QUICK = (
    *("start.first_steps=250", "start.training.steps=50", "start.stop_accuracy=0.1"),
    *("scorer.steps=10", "seeds=[0, 1]"),
    *("problems=200", "attempts=4", "test_problems=20", "validation_problems=20", "samples=1"),
)
"""Overrides that run every part once; what they measure says nothing."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(soft_wrap=True, emoji=False, highlight=False)


@app.command()
def study(
    settings: Annotated[Path, typer.Option(help="The study's settings.")] = PRM,
    override: Annotated[list[str] | None, typer.Option("--set", help="key=value. Repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps of every part.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where the runs are kept.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Scorers of a small policy's own solutions: step figures, and what their votes gain."""
    study = PrmStudy.load(settings, [*(QUICK if quick else ()), *(override or ())])
    folder = (folder or ROOT / "build" / "learning" / ("prm_quick" if quick else "prm")).resolve()
    started = time.monotonic()
    prm_study.run_all(study, folder, jobs, lambda line: console.print(line, markup=False))
    starts, runs = read_results(folder, study.seeds, prm_study.scorer_runs(study))
    figures = prm_report.figures(study, starts, runs)
    text = json.dumps(figures, indent=1) + "\n"
    for path in (folder / "figures.json", json_path):
        if path is not None:
            write_text(path, text)
    console.print("\n".join(prm_report.section(figures)), markup=False)
    minutes = (time.monotonic() - started) / 60
    console.print(f"{minutes:.1f} min; runs and figures are in {folder}", markup=False)


@app.command(hidden=True)
def one(folder: Path, name: str) -> None:
    """One run of the study, in a process of its own."""
    prm_study.run_one(folder, name)


if __name__ == "__main__":
    run(app)
