"""Fits how answers are chosen to recorded attempts, and tells whether that beats the plain vote.

    python -m kit.calibrate SAMPLES... --out calibration.json [--answers CSV] [--attempts N]

Use problems that no model was trained on, the PRM included, and as many attempts as the contest will draw.
The file goes into the bundle; where it says that nothing helps, the contest takes the plain vote.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kit.attempts import read_attempts
from submission.cli import run
from submission.selection.calibration import save_calibration
from submission.selection.fitting import LEVEL, Fit, LabelledProblem, available, fit
from submission.selection.rule import Method
from submission.selection.statistics import attempt_correlation, effective_attempts

console = Console()


def overview(problems: Sequence[LabelledProblem]) -> str:
    """How good the attempts are, and how many independent ones they are worth."""
    sizes = [len(one.candidates) for one in problems]
    single = sum(sum(one.right) / len(one.right) for one in problems) / len(problems)
    any_right = sum(any(one.right) for one in problems) / len(problems)
    span = f"{max(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    about = f"{len(problems)} problems, {span} attempts: "
    about += f"pass@1 {single:.1%}, any attempt right {any_right:.1%}"
    if len(problems) > 1 and max(sizes) > 1:
        rho = attempt_correlation([one.right for one in problems])
        worth = effective_attempts(max(sizes), rho)
        about += f", correlation {rho:.2f}, so {max(sizes)} attempts are worth {worth:.1f}"
    return about


def chosen_methods(asked: Sequence[str], found: Sequence[Method]) -> list[Method]:
    """The methods to try beside the plain vote: those asked for, or all that the attempts have values for.

    Raises:
        ValueError: one that was asked for does not exist, or lacks its values.
    """
    usable = [method for method in found if method != "majority"]
    for name in asked:
        if name not in usable:
            raise ValueError(
                f"method {name!r} cannot be fitted to these attempts; "
                f"they have values for: {', '.join(usable) or 'none'}"
            )
    return [method for method in usable if not asked or method in asked]


def show(fits: Sequence[tuple[str, Fit]]) -> None:
    """A table of what was tried."""
    table = Table(title="Choosing an answer, cross-validated against the plain vote")
    for name in ("tried", "fitted rule", "accuracy", "vote", "gain", "interval", "p", "helps"):
        table.add_column(name, justify="left" if name in ("tried", "fitted rule") else "right")
    for name, one in fits:
        found = one.calibration
        table.add_row(
            name,
            str(found.parameters),
            f"{found.accuracy:.1%}",
            f"{found.majority:.1%}",
            f"{found.gain:+.1%}",
            f"{found.interval[0]:+.1%} to {found.interval[1]:+.1%}",
            f"{found.p_value:.3f}",
            "yes" if found.helps else "no",
        )
    console.print(table)


def main() -> None:
    """Entry point of `python -m kit.calibrate`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def calibrate(
        samples: Annotated[
            list[Path],
            typer.Argument(help="Recorded attempts: .parquet, .csv or .jsonl; see kit/attempts.py."),
        ],
        out: Annotated[Path, typer.Option(help="Calibration to write, for the bundle.")],
        answers: Annotated[
            Path | None, typer.Option(help="Csv of id and answer, for attempts that do not tell.")
        ] = None,
        method: Annotated[
            list[str] | None,
            typer.Option(help="Try only this method. Repeatable; all that fit by default."),
        ] = None,
        attempts: Annotated[
            int | None,
            typer.Option(min=1, help="Take the first N attempts of a problem, as the contest will."),
        ] = None,
        folds: Annotated[int, typer.Option(min=2, help="Parts of the cross-validation.")] = 5,
        seed: Annotated[int, typer.Option(help="Of the parts and the bootstrap.")] = 0,
        level: Annotated[
            float, typer.Option(min=0.5, max=0.9999, help="Of the interval that must leave zero out.")
        ] = LEVEL,
    ) -> None:
        """Fit the vote's weights on held-out attempts; the plain vote stays where they do not help."""
        problems = read_attempts(samples, answers=answers, limit=attempts)
        console.print(overview(problems), highlight=False)
        methods = chosen_methods(method or [], available(problems))
        if not methods:
            console.print(
                "the attempts have no tokens, log-probabilities, entropies or scores to weigh by",
                highlight=False,
            )

        def fitted(of: Sequence[Method]) -> Fit:
            return fit(problems, methods=of, folds=folds, seed=seed, level=level)

        fits: list[tuple[str, Fit]] = [(name, fitted([name])) for name in methods if len(methods) > 1]
        fits.append(("all together", fitted(methods)))
        show(fits)
        found = fits[-1][1].calibration
        save_calibration(out, found)
        console.print(
            f"{'helps' if found.helps else 'does not help: the plain vote stays'}; written {out}",
            highlight=False,
        )

    run(app)


if __name__ == "__main__":
    main()
