"""Proofs that the training learns, at a size that runs on two CPU cores in minutes.

    python -m benchmarks.learning distill [--seeds N] [--steps N] [--quick] [--json FILE]
    python -m benchmarks.learning grpo [--quick] [--json FILE]
    python -m benchmarks.learning prm [--quick] [--json FILE]

`distill` trains a teacher of some 100,000 parameters on worked sums, then students with and without its token
distributions, and compares them on held-out problems: see `distill.toml` for the sizes. `grpo` trains small
distilled models with verifiable rewards, with and without each ingredient of the recipe: see `grpo.toml`.
`prm` trains process reward models on a small policy's own solutions and votes with them: see `prm.toml`. A
study that was stopped goes on where it was.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.learning import grpo_report, grpo_study, prm, report
from benchmarks.learning.grpo_settings import GRPO, GrpoStudy
from benchmarks.learning.runs import read_result
from benchmarks.learning.settings import DISTILL, DistillStudy
from benchmarks.learning.starts import read_results
from benchmarks.learning.study import BASE, TEACHER, run_all, run_one, students
from benchmarks.shared import ROOT
from submission.cli import run
from submission.files import write_text

QUICK = (
    *("teacher.problems=200", "base.problems=200", "traces=100", "test_problems=20", "samples=1"),
    *("teacher.training.steps=10", "base.training.steps=10", "student_training.steps=5", "seeds=[0, 1]"),
)
"""Overrides that run every part once; what they measure says nothing."""
GRPO_QUICK = (
    *("start.first_steps=5", "start.training.steps=5", "start.rounds=1", "policy.steps=2", "seeds=[0, 1]"),
    *(
        "policy.problems=100",
        "policy.batch_size=4",
        "test_problems=20",
        "validation_problems=20",
        "samples=1",
    ),
)
"""The same for the study of GRPO."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(soft_wrap=True, emoji=False, highlight=False)


@app.callback()
def commands() -> None:
    """Proofs that the training learns."""


app.command("prm")(prm.study)


@app.command()
def distill(
    settings: Annotated[Path, typer.Option(help="The study's settings.")] = DISTILL,
    override: Annotated[list[str] | None, typer.Option("--set", help="key=value. Repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option(min=2, max=10, help="Students of each arm.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a student.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps of every part, in a minute.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where the runs are kept, and resumed.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Students trained at a time, one thread each.")] = 2,
    plot: Annotated[Path | None, typer.Option(help="PNG to write. Default: in the folder.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Cross-entropy against distillation, by seeds, on held-out problems."""
    changes = [*(QUICK if quick else ()), *(override or ())]
    if seeds is not None:
        changes.append(f"seeds={list(range(seeds))}")
    if steps is not None:
        changes.append(f"student_training.steps={steps}")
    study = DistillStudy.load(settings, changes)
    folder = (folder or ROOT / "build" / "learning" / ("quick" if quick else "distill")).resolve()
    started = time.monotonic()
    run_all(study, folder, jobs, lambda line: console.print(line, markup=False))
    runs = {(arm, seed): read_result(folder, f"{arm}-{seed}") for arm, seed in students(study)}
    figures = report.figures(study, read_result(folder, TEACHER), read_result(folder, BASE), runs)
    _keep(figures, folder, json_path)
    report.plot(figures, plot or folder / "distill.png")
    console.print("\n".join(report.section(figures)), markup=False)
    minutes = (time.monotonic() - started) / 60
    console.print(f"{minutes:.1f} min; runs, figures and plot are in {folder}", markup=False)


@app.command()
def grpo(
    settings: Annotated[Path, typer.Option(help="The study's settings.")] = GRPO,
    override: Annotated[list[str] | None, typer.Option("--set", help="key=value. Repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps of every part, in minutes.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where the runs are kept.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    plot: Annotated[Path | None, typer.Option(help="PNG to write. Default: in the folder.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """GRPO from distilled starts, with and without each ingredient, by seeds, on held-out problems."""
    study = GrpoStudy.load(settings, [*(GRPO_QUICK if quick else ()), *(override or ())])
    folder = (folder or ROOT / "build" / "learning" / ("grpo_quick" if quick else "grpo")).resolve()
    started = time.monotonic()
    grpo_study.run_all(study, folder, jobs, lambda line: console.print(line, markup=False))
    starts, runs = read_results(folder, study.seeds, grpo_study.policy_runs(study))
    figures = grpo_report.figures(study, starts, runs)
    _keep(figures, folder, json_path)
    grpo_report.plot(figures, plot or folder / "grpo.png")
    console.print("\n".join(grpo_report.section(figures)), markup=False)
    minutes = (time.monotonic() - started) / 60
    console.print(f"{minutes:.1f} min; runs, figures and plot are in {folder}", markup=False)


def _keep(figures: Mapping[str, Any], folder: Path, also: Path | None) -> None:
    """Write the figures."""
    text = json.dumps(figures, indent=1) + "\n"
    for path in (folder / "figures.json", also):
        if path is not None:
            write_text(path, text)


@app.command(hidden=True)
def one(folder: Path, name: str) -> None:
    """One run of a study: what `distill` starts in processes of their own."""
    run_one(folder, name)


@app.command(hidden=True)
def grpo_one(folder: Path, name: str) -> None:
    """One run of a study: what `grpo` starts in processes of their own."""
    grpo_study.run_one(folder, name)


if __name__ == "__main__":
    run(app)
