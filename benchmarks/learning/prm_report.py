"""From the runs of the study of process reward models to its figures and a section of BENCHMARKS.md."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.learning.prm_settings import PrmStudy
from benchmarks.learning.report import REPEATS
from submission.selection.statistics import bootstrap_interval, mean_interval

COMPARED = ("vote", "best_of_n")
_NAMES = {"vote": "PRM-weighted vote", "best_of_n": "best of {attempts}"}
_COSTS = ("steps", "cpu_seconds", "sampling_seconds")
_STEP_FIGURES = ("f1", "wrong_f1", "found_errors", "passed_right", "step_accuracy", "ece")


def figures(
    study: PrmStudy,
    starts: Mapping[int, Mapping[str, Any]],
    runs: Mapping[tuple[str, int], Mapping[str, Any]],
) -> dict[str, Any]:
    """What the page shows, ready for JSON.

    Args:
        starts, runs: results as `benchmarks.learning.prm_study.run_one` writes them, by seed, and by arm and
            seed.
    """
    return {
        "study": study.model_dump(mode="json"),
        "starts": [
            {
                "seed": seed,
                **{name: starts[seed][name] for name in ("steps", "cpu_seconds", "sampling_seconds")},
            }
            for seed in study.seeds
        ],
        "arms": {
            arm: {
                "label": study.arms[arm].label,
                "seeds": [_seed(seed, runs[arm, seed]) for seed in study.seeds],
                "gains": {rule: _both(rule, [runs[arm, seed] for seed in study.seeds]) for rule in COMPARED},
            }
            for arm in study.arms
        },
    }


def _seed(seed: int, run: Mapping[str, Any]) -> dict[str, Any]:
    right: Mapping[str, Sequence[float]] = run["right"]
    row: dict[str, Any] = {
        "seed": seed,
        "cpu_seconds": run["cpu_seconds"],
        "steps": {name: run["test"][name] for name in (*_STEP_FIGURES, "f1_at_half")},
        "places": {name: run["places"][name] for name in _STEP_FIGURES},
        "attempt": float(np.mean(run["attempts_right"])),
        "any": float(np.mean([share > 0 for share in run["attempts_right"]])),
        **{rule: float(np.mean(values)) for rule, values in right.items()},
    }
    for rule in COMPARED:
        found = mean_interval(np.subtract(right[rule], right["majority"]).tolist(), repeats=REPEATS, seed=0)
        row[f"{rule}_gain"] = [found.mean, found.low, found.high]
    return row


def _both(rule: str, runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Mean gain over seeds with its two-way bootstrap interval."""
    table = np.array([np.subtract(run["right"][rule], run["right"]["majority"]) for run in runs])
    found = bootstrap_interval(table, repeats=REPEATS, seed=0)
    return [found.mean, found.low, found.high]


def section(found: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown."""
    study = found["study"]
    count = study["attempts"]
    start = study["start"]
    shape = "{hidden} x {layers}".format(**start["model"])
    about = (
        f"A small policy (hidden x layers {shape}) is distilled for each of {len(study['seeds'])} seeds "
        f"until it samples {start['stop_accuracy']:.0%} of the validation problems right, as for GRPO. It "
        f"writes {count} solutions to each of {study['problems']} training problems at temperature 1; each "
        "step is labelled with its exact truth up to the first wrong one. `python -m kit.train prm` trains a "
        f"scorer from the policy's own weights in {study['scorer']['steps']} steps of "
        f"{study['scorer']['batch_size']} solutions, a tenth of the problems held out to choose the "
        f"checkpoint and to calibrate. Measured on {study['test_problems']} test problems (apart by a hash "
        f"of their operands), {count} attempts each, scored by the contest's own scorer: ProcessBench's F1 "
        "of the first wrong step and the F1 of wrong steps, against a logistic regression on the step's "
        "number and lengths (each at the threshold that was best on training solutions; places cannot tell "
        "right solutions of one shape apart), and the share of problems that each way of choosing solves. "
        "Gains over the plain vote are paired by problem, with 95 % bootstrap intervals of "
        f"{REPEATS} draws. CPU-s are the scorer's training with its evaluations, on one thread."
    )
    lines = [*textwrap.wrap(about, 110, break_long_words=False, break_on_hyphens=False), ""]
    lines += [
        "| Scorer | Seed | CPU-s | First error F1 | at 0.5 | Places | Wrong step F1 | Places | Step accuracy "
        f"| ECE | One attempt | Majority | PRM vote | Gain | Best of {count} | Gain | Any of {count} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|---|--:|",
    ]
    for arm in found["arms"].values():
        lines += [_row(arm["label"], row) for row in arm["seeds"]]
    return [*lines, "", *_verdict(found)]


def _row(label: str, row: Mapping[str, Any]) -> str:
    steps = row["steps"]
    cells = [
        label,
        str(row["seed"]),
        f"{row['cpu_seconds']:.0f}",
        f"{steps['f1']:.3f}",
        f"{steps['f1_at_half']:.3f}",
        f"{row['places']['f1']:.3f}",
        f"{steps['wrong_f1']:.3f}",
        f"{row['places']['wrong_f1']:.3f}",
        f"{steps['step_accuracy']:.3f}",
        f"{steps['ece']:.3f}",
        f"{row['attempt']:.3f}",
        f"{row['majority']:.3f}",
        f"{row['vote']:.3f}",
        _gain(row["vote_gain"]),
        f"{row['best_of_n']:.3f}",
        _gain(row["best_of_n_gain"]),
        f"{row['any']:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def _verdict(found: Mapping[str, Any]) -> list[str]:
    """For each scorer, whether its votes are clear of the plain vote on every seed."""
    count = found["study"]["attempts"]
    told = []
    for arm in found["arms"].values():
        for rule in COMPARED:
            gains = [row[f"{rule}_gain"] for row in arm["seeds"]]
            clear = sum(low > 0 for _, low, _ in gains)
            name = _NAMES[rule].format(attempts=count)
            told.append(
                f"{arm['label']}, {name}: {_gain(arm['gains'][rule])} over all seeds, clear of zero on "
                f"{clear} of {len(gains)}."
            )
    return textwrap.wrap(" ".join(told), 110, break_long_words=False, break_on_hyphens=False)


def _gain(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
