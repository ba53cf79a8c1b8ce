"""From the runs of a study to its figures, a section of BENCHMARKS.md, and a plot."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.settings import ARMS, Arm, DistillStudy
from benchmarks.learning.statistics import seeds_needed, t_interval
from submission.selection.statistics import bootstrap_interval

MEASURES = ("sampled", "greedy")
COMPARISONS: tuple[tuple[Arm, Arm], ...] = (("kd", "ce"), ("kd", "ce_more"))
LABELS: dict[str, str] = {"ce": "CE", "kd": "KD + CE", "ce_more": "CE, more steps"}
REPEATS = 10_000
EFFECT = 0.05
"""Difference in accuracy that is worth telling from none."""


def figures(
    study: DistillStudy,
    teacher: Mapping[str, Any],
    base: Mapping[str, Any],
    runs: Mapping[tuple[Arm, int], Mapping[str, Any]],
) -> dict[str, Any]:
    """What the page and the plot show, ready for JSON.

    Args:
        teacher, base, runs: results as `benchmarks.learning.study.run_one` writes them, one of `runs` for
            each arm and seed.
    """
    arms = {}
    for arm in ARMS:
        mine = [runs[arm, seed] for seed in study.seeds]
        arms[arm] = {
            "steps": study.arm_steps(arm),
            "cpu_seconds": float(np.mean([run["cpu_seconds"] for run in mine])),
            **{measure: [float(np.mean(run[measure])) for run in mine] for measure in MEASURES},
        }
    differences = []
    for better, worse in COMPARISONS:
        for measure in MEASURES:
            table = np.array(
                [np.subtract(runs[better, seed][measure], runs[worse, seed][measure]) for seed in study.seeds]
            )
            by_seed = t_interval(table.mean(axis=1).tolist())
            by_both = bootstrap_interval(table, repeats=REPEATS, seed=0)
            differences.append(
                {
                    "arms": [better, worse],
                    "measure": measure,
                    "mean": by_seed.mean,
                    "t": [by_seed.low, by_seed.high],
                    "bootstrap": [by_both.low, by_both.high],
                    "clear": by_seed.clear_of_zero,
                }
            )
    return {
        "study": study.model_dump(mode="json"),
        **{
            name: {
                "cpu_seconds": result["cpu_seconds"],
                **{measure: float(np.mean(result[measure])) for measure in MEASURES},
            }
            for name, result in (("teacher", teacher), ("base", base))
        },
        "arms": arms,
        "differences": differences,
    }


def section(found: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown."""
    study, teacher, base = found["study"], found["teacher"], found["base"]
    mixture = f"{study['alpha']:g} · KD(T = {study['temperature']:g}) + {1 - study['alpha']:g} · CE"
    traces = (
        f"{study['slips']:.0%} of which have a slip in one step, as in sets that nobody verified,"
        if study["slips"]
        else "all of them right,"
    )
    about = (
        f"A small base model that can add up to {study['base']['difficulty']['max_operands']} numbers learns "
        f"from {study['traces']} worked problems, bare and in words, {traces} by cross-entropy (CE) or by "
        f"{mixture}: {len(study['seeds'])} seeds each, with the code that trains 32B models. Students of one "
        "seed see the same batches of the same traces. The teacher's log-probabilities are made once for "
        "each student and counted in its CPU-s; CE with more steps goes on for as many more as make up for "
        "all that KD costs. Measured is the share of "
        f"{study['test_problems']} held-out problems (apart by a hash of their operands) solved, at "
        f"temperature 1 ({study['samples']} completions each) and greedy. The teacher: "
        f"{teacher['sampled']:.3f} and {teacher['greedy']:.3f}; the base: {base['sampled']:.3f} and "
        f"{base['greedy']:.3f}."
    )
    lines = [
        *textwrap.wrap(about, 104, break_long_words=False, break_on_hyphens=False),
        "",
        "| Arm | Steps | CPU-s | Sampled, by seed | Mean | Greedy, by seed | Mean |",
        "|---|--:|--:|---|--:|---|--:|",
    ]
    for arm, row in found["arms"].items():
        cells = [
            f"{' '.join(f'{value:.2f}' for value in row[measure])} | {np.mean(row[measure]):.3f}"
            for measure in MEASURES
        ]
        lines.append(
            f"| {LABELS[arm]} | {row['steps']} | {row['cpu_seconds']:.0f} | {cells[0]} | {cells[1]} |"
        )
    lines += [
        "",
        "Differences, paired by seed, with 95 % intervals: Student's t over the seeds' means, and the",
        f"percentiles of {REPEATS} bootstrap draws over seeds and problems both.",
        "",
        "| Difference | Solved | Mean | t over seeds | Bootstrap | Clear of zero (t) |",
        "|---|---|--:|--:|--:|---|",
    ]
    for row in found["differences"]:
        better, worse = row["arms"]
        equal = "equal compute" if worse == "ce_more" else "equal tokens"
        lines.append(
            f"| {LABELS[better]} against {LABELS[worse]} ({equal}) | {row['measure']} | {row['mean']:+.3f} "
            f"| {_range(row['t'])} | {_range(row['bootstrap'])} | {'yes' if row['clear'] else 'no'} |"
        )
    return [*lines, "", *_verdict(found)]


def section_with_plot(found: Mapping[str, Any]) -> list[str]:
    """The same, with the plot that its command wrote."""
    return [*section(found), "", "![Held-out accuracy by arm and seed](docs/learning.png)"]


def _verdict(found: Mapping[str, Any]) -> list[str]:
    """What the equal-compute comparison shows."""
    rows = [row for row in found["differences"] if row["arms"][1] == "ce_more"]
    if all(row["clear"] and row["mean"] > 0 for row in rows):
        return ["At equal compute distillation wins, clear of zero."]
    if all(row["clear"] and row["mean"] < 0 for row in rows):
        return ["At equal compute distillation loses, clear of zero: spend the compute on more steps."]
    arms = found["arms"]
    pairs = zip(arms["kd"]["sampled"], arms["ce_more"]["sampled"], strict=True)
    seeds = seeds_needed([kd - more for kd, more in pairs], EFFECT)
    return [
        "At equal compute these seeds show no win of distillation on both measures.",
        f"With this scatter it takes about {seeds} seeds to tell a difference of {EFFECT} from none",
        "(power 0.8).",
    ]


def _range(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:+.3f} to {bounds[1]:+.3f}"


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Write a PNG: every seed's accuracy in each arm, joined by seed, and the arms' means."""
    from matplotlib.figure import Figure

    arms = list(found["arms"])
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for place, (axes, measure) in enumerate(
        zip(figure.subplots(1, len(MEASURES), sharey=True), MEASURES, strict=True)
    ):
        table = np.array([found["arms"][arm][measure] for arm in arms])
        spots = np.arange(len(arms))
        axes.plot(spots, table, color="0.6", linewidth=0.8, marker="o", markersize=3)
        axes.plot(spots, table.mean(axis=1), "_", color="tab:red", markersize=28, label="mean of the seeds")
        axes.axhline(found["teacher"][measure], color="tab:blue", linestyle="--", label="teacher")
        axes.set_xticks(spots, [LABELS[arm] for arm in arms])
        axes.set_xlim(-0.5, len(arms) - 0.5)
        axes.set_ylim(0, 1)
        axes.set_title({"sampled": "sampled, temperature 1", "greedy": "greedy"}[measure])
        axes.grid(axis="y", alpha=0.3)
        if place == 0:
            axes.set_ylabel("held-out problems solved")
            axes.legend(fontsize="small", loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the library's version in the file, the same figures give the same bytes.
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})
