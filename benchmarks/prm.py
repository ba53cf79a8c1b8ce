"""What process reward scores are worth: choosing among attempts, first errors of ProcessBench, calibration.

    python -m benchmarks.prm [--samples FILE]... [--model FOLDER [--process-bench FILE]...] [--plot PNG]

Recorded attempts (`kit/attempts.py` lists the formats) need no model: best of N and votes weighted by their
scores are compared with the plain vote and with the oracle, and `kit.calibrate`'s cross-validation tells
whether a weight helps. With `--model` a process reward model scores ProcessBench; one that is stopped goes on
where it was.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import best_of_n
from benchmarks.process_bench import Solution, fingerprint, judge, read_solutions, score_solutions
from benchmarks.shared import ROOT, shared_file
from kit.attempts import read_attempts
from submission.cli import run
from submission.engines.base import EngineError
from submission.files import write_text
from submission.prm.heads import check_prm
from submission.prm.transformers_scorer import TransformersScorer

SAMPLES = (
    "samples/qwen2.5-math-7b_math_8samples.jsonl",
    "samples/gpt-oss-120b_cot_aimo3.parquet",
    "samples/gpt-oss-20b_tir_aimo3.parquet",
)
SUBSETS = ("processbench/gsm8k.json", "processbench/math.json")
"""The threshold is chosen on the first."""
PLOT = "docs/prm.png"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(soft_wrap=True, emoji=False, highlight=False)


@app.command()
def main(
    samples: Annotated[
        list[Path] | None, typer.Option(help="Recorded attempts. Repeatable; the shared ones by default.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Csv of id and answer, for attempts that do not tell.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a process reward model, to score ProcessBench with.")
    ] = None,
    process_bench: Annotated[
        list[Path] | None,
        typer.Option(help="Subsets of ProcessBench; the threshold is chosen on the first. Repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Solutions of a subset, the first ones.")] = None,
    journal: Annotated[Path | None, typer.Option(help="Where scores are kept while they are made.")] = None,
    draws: Annotated[
        int, typer.Option(min=1, help="Subsets of N attempts that are drawn.")
    ] = best_of_n.DRAWS,
    seed: Annotated[int, typer.Option(help="Of the subsets, the folds and the bootstrap.")] = 0,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="PNG to write.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Measure step scores on recorded attempts, and a model on ProcessBench."""
    if process_bench and model is None:
        raise ValueError("--process-bench needs --model, the folder of the model that scores it")
    files = samples or [path for name in SAMPLES if (path := shared_file(name)) is not None]
    sets = [(path.stem, read_attempts([path], answers=answers)) for path in files]
    subsets = _subsets(process_bench, limit) if model is not None else {}
    if not sets and not subsets:
        raise ValueError("nothing to measure: give --samples, or --model with --process-bench")
    figures: dict[str, Any] = {
        "draws": draws,
        "seed": seed,
        "samples": [best_of_n.figures(name, found, draws=draws, seed=seed) for name, found in sets],
    }
    if model is not None:
        figures["process_bench"] = {"model": model.name, **_on_process_bench(model, subsets, journal)}
    _print(figures)
    if plot_path is not None:
        plot(figures, plot_path)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")


def _subsets(paths: Sequence[Path] | None, limit: int | None) -> dict[str, list[Solution]]:
    found = paths or [path for name in SUBSETS if (path := shared_file(name)) is not None]
    if not found:
        raise ValueError("--model scores ProcessBench: give its files with --process-bench")
    return {path.stem: read_solutions(path)[:limit] for path in found}


def _on_process_bench(
    model: Path, subsets: dict[str, list[Solution]], journal: Path | None
) -> dict[str, Any]:
    """Score all subsets and judge them."""
    check_prm(model)
    journal = journal or ROOT / "build" / "prm" / "process_bench.jsonl"
    scorer = TransformersScorer(model)
    try:
        asyncio.run(scorer.start())
        solutions = [one for found in subsets.values() for one in found]
        scores = score_solutions(solutions, scorer.scores_of_steps, journal, fingerprint(model), console)
    except EngineError as error:
        raise ValueError(str(error)) from error
    finally:
        asyncio.run(scorer.close())
    return judge(subsets, scores, next(iter(subsets)))


def section(figures: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "Recorded attempts, the vote of N of them, and what choosing by scores changes: accuracy at N, and",
        "the difference to the plain vote at that N with its 95 % bootstrap interval over problems.",
        "",
        "| Attempts | Problems | N | pass@1 | Independent | Choosing by | Accuracy | Against the vote |",
        "|---|--:|--:|--:|--:|---|--:|--:|",
    ]
    for one in figures["samples"]:
        most = max(row["size"] for row in one["curves"])
        worth = "" if one["effective"] is None else f"{one['effective']:.1f}"
        lines += [
            f"| {one['name']} | {one['problems']} | {row['size']} | {one['pass_1']:.1%} | {worth} "
            f"| {row['name']} | {row['mean']:.1%} | {_gain(row)} |"
            for row in one["curves"]
            if row["size"] == most
        ]
    lines += [
        "",
        "Whether a weight helps, cross-validated by problem (`python -m kit.calibrate`); where it does not,",
        "the contest takes the plain vote. Independent: attempts that N correlated ones are worth.",
        "",
        "| Attempts | Fitted to | Rule | Gain | 95 % interval | McNemar's p | Helps | ECE of the scores |",
        "|---|---|---|--:|--:|--:|---|--:|",
    ]
    for one in figures["samples"]:
        found = one["calibration"]
        errors = ", ".join(f"{row['name']} {row['ece']:.3f}" for row in one["reliability"]) or "no scores"
        lines.append(
            f"| {one['name']} | {', '.join(one['methods']) or 'nothing'} | {found['rule']} "
            f"| {found['gain']:+.1%} | {found['interval'][0]:+.1%} to {found['interval'][1]:+.1%} "
            f"| {found['p_value']:.3f} | {'yes' if found['helps'] else 'no'} | {errors} |"
        )
    return [*lines, *_process_bench_lines(figures.get("process_bench"))]


def _process_bench_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = [
        "",
        f"ProcessBench with {found['model']}; the threshold {found['threshold']:.3f} is that of the best F1",
        f"on {found['tuned_on']}. F1: harmonic mean of the share of first errors named and of the share of",
        "right solutions left alone.",
        "",
        "| Subset | Solutions | F1 | First errors | Right solutions | ECE of the steps |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['subset']} | {row['solutions']} | {row['f1']:.3f} | {row['error_accuracy']:.3f} "
        f"| {row['correct_accuracy']:.3f} | {row['ece']:.3f} |"
        for row in found["subsets"]
    ]
    return lines


def section_with_plot(figures: dict[str, Any]) -> list[str]:
    """The same, with the plot that its command wrote."""
    return [
        *section(figures),
        "",
        f"![Accuracy by number of attempts, and reliability of the scores]({PLOT})",
    ]


def _gain(row: dict[str, Any]) -> str:
    if row["name"] == best_of_n.MAJORITY:
        return ""
    return f"{row['gain']:+.1%} ({row['gain_low']:+.1%} to {row['gain_high']:+.1%})"


def _print(figures: dict[str, Any]) -> None:
    for one in figures["samples"]:
        table = Table(title=f"{one['name']}: {one['problems']} problems, pass@1 {one['pass_1']:.1%}")
        for name in ("N", "choosing by", "accuracy", "95 %", "against the vote"):
            table.add_column(name, justify="left" if name == "choosing by" else "right")
        for row in one["curves"]:
            interval = f"{row['low']:.1%} to {row['high']:.1%}"
            table.add_row(str(row["size"]), row["name"], f"{row['mean']:.2%}", interval, _gain(row))
        console.print(table)
        found = one["calibration"]
        low, high = found["interval"]
        console.print(
            f"[bold]calibration: {found['rule']}, gain {found['gain']:+.1%} ({low:+.1%} to {high:+.1%}): "
            f"{'helps' if found['helps'] else 'the plain vote stays'}[/]"
        )
    for line in _process_bench_lines(figures.get("process_bench")):
        console.print(line, markup=False)


def plot(figures: dict[str, Any], path: Path) -> None:
    """Write a PNG: for each file, accuracy by N with intervals; then the reliability of all scores."""
    from matplotlib.figure import Figure

    curves = [
        (f"{one['name']}, {row['name']}", row) for one in figures["samples"] for row in one["reliability"]
    ]
    curves += [(row["subset"], row) for row in figures.get("process_bench", {}).get("subsets", [])]
    panels = len(figures["samples"]) + bool(curves)
    figure = Figure(figsize=(4.6 * panels, 4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for place, one in zip(axes, figures["samples"], strict=False):
        names = dict.fromkeys(row["name"] for row in one["curves"])
        for number, name in enumerate(names):
            rows = [row for row in one["curves"] if row["name"] == name]
            errors = [[row["mean"] - row["low"] for row in rows], [row["high"] - row["mean"] for row in rows]]
            style = {best_of_n.MAJORITY: "k-", best_of_n.ORACLE: "k--"}.get(name, "-")
            # Side by side, or the intervals hide one another.
            sizes, means = [row["size"] * 1.04**number for row in rows], [row["mean"] for row in rows]
            place.errorbar(sizes, means, yerr=errors, fmt=style, elinewidth=0.7, marker=".", label=name)
        place.set_xscale("log", base=2)
        ticks = sorted({row["size"] for row in one["curves"]})
        place.set_xticks(ticks, [str(tick) for tick in ticks])
        place.set(xlabel="attempts", ylabel="accuracy", title=one["name"])
        place.legend(fontsize="x-small", loc="upper left")
    if curves:
        axes[-1].plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        for name, row in curves:
            found = [point[:2] for point in row["reliability"]]
            axes[-1].plot(*zip(*found, strict=True), marker=".", label=f"{name}, ECE {row['ece']:.3f}")
        axes[-1].set(xlabel="score", ylabel="right", title="reliability", xlim=(0, 1), ylim=(0, 1))
        axes[-1].legend(fontsize="x-small")
    for place in axes:
        place.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the library's version in the file, the same figures give the same bytes.
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})


if __name__ == "__main__":
    run(app)
