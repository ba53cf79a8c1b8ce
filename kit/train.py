"""Train a model by a recipe, alone or under torchrun.

python -m kit.train distill kit/recipes/distill_cpu.toml

python -m kit.train grpo kit/recipes/grpo_cpu.toml

python -m kit.train prm kit/recipes/prm_cpu.toml

torchrun --nproc-per-node 8 -m kit.train distill kit/recipes/distill_qwen32b.toml optimizer.lr=1e-5

A run that is started again goes on from its last checkpoint. After USR1, USR2 or TERM it saves and exits with
code 85, on which a launcher puts it back into the queue.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kit.distill.recipe import DistillRecipe
from kit.grpo.recipe import GrpoRecipe
from kit.prm.recipe import PrmRecipe
from kit.training.ranks import quit_rank
from submission.cli import run

if TYPE_CHECKING:
    from kit.training.loop import Outcome

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
console = Console(stderr=True, soft_wrap=True, emoji=False)


@app.callback(help=__doc__)
def train() -> None:
    """One subcommand a phase."""


RecipeFile = Annotated[Path, typer.Argument(help="A TOML file such as those in kit/recipes.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings over the file's: section.key=value ...")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print memory a GPU, steps, tokens and hours; exit 2 if it cannot fit. Trains nothing.",
    ),
]


@app.command()
def distill(recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Reasoning distillation: fine-tune a student on a teacher's traces and token distributions."""
    loaded = DistillRecipe.load(recipe, overrides or ())
    if dry_run:
        from kit.distill.plan import print_plan

        print_plan(loaded)
        return
    from kit.distill.phase import distill as train_student

    _run(loaded.out, lambda: train_student(loaded))


@app.command()
def grpo(recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """GRPO: reinforcement learning from verifiable rewards."""
    loaded = GrpoRecipe.load(recipe, overrides or ())
    if dry_run:
        from kit.grpo.plan import print_plan

        print_plan(loaded)
        return
    from kit.grpo.phase import grpo as train_policy

    _run(loaded.out, lambda: train_policy(loaded))


@app.command()
def prm(recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Process reward model: learn from labelled steps how likely each step of a solution is right."""
    loaded = PrmRecipe.load(recipe, overrides or ())
    if dry_run:
        from kit.prm.plan import print_plan

        print_plan(loaded)
        return
    from kit.prm.phase import prm as train_scorer

    _run(loaded.out, lambda: train_scorer(loaded))


def _run(out: Path, work: "Callable[[], Outcome]") -> None:
    """Train, say how it ended, exit with the code that the launcher reads."""
    try:
        outcome = work()
    except OSError as error:
        # A full disk, a lost mount: the user's to mend, and the last good checkpoint stands.
        raise ValueError(
            f"{error}; the last good checkpoint in {out} stands, start again to go on"
        ) from error
    if int(os.environ.get("RANK", "0")) == 0:
        _say(out, outcome.steps, outcome.total, outcome.stopped)
    sys.exit(outcome.exit_code)


def _say(out: Path, steps: int, total: int, stopped: str) -> None:
    if stopped and steps < total:
        console.print(
            f"{stopped}: saved after step {steps} of {total}; start again to go on", highlight=False
        )
    else:
        console.print(f"{steps} steps; the model is in {out / 'model'}", highlight=False)


if __name__ == "__main__":
    try:
        run(app)
    except SystemExit as end:
        quit_rank(end.code)
        raise
