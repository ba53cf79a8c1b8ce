"""Step scores of a problem's candidates: ours beside the loop that public model cards show, in one run.

    python -m benchmarks.prm_speed [--groups 3] [--candidates 8] [--model DIR] [--python PATH] [--json PATH]

The peer, in a process of its own, renders and tokenizes each candidate, puts it through
`AutoModelForTokenClassification` by itself and reads softmax at the separators. Ours puts what candidates
share through the model once. The two take turns, group by group, on the same texts and the same weights in
float32; the scores must agree. Candidates come from real samples, eight a problem:

    next step     the first sample up to its last step, then a last step of each: a step-level search
    roll-outs     the first sample's first half, then each sample's second half: Monte-Carlo roll-outs
    independent   the samples as they are, which share little but the problem

The model is the kit's default one with a random head and a separator token: the time does not depend on what
the weights say.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.peers.process import SETTLE, Peer, Python, open_peer
from benchmarks.shared import shared_file
from kit.models import default_model
from submission.cli import run
from submission.files import write_text
from submission.prm.heads import EXTRA
from submission.prm.transformers_scorer import TransformersScorer
from submission.prm.tree import grow
from submission.steps import split_steps

SAMPLES = "samples/qwen2.5-math-7b_math_8samples.jsonl"
RATIO_LIMIT, GAP_LIMIT = 4.0, 1e-5
"""Demands: candidates/s of `next step` over the peer's, and the largest difference of any score."""
LEAST_STEPS = 4
CASES = ("next step", "roll-outs", "independent")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()

Solution = list[str]


@dataclass(frozen=True)
class Group:
    """Candidates of one problem, each as its steps."""

    problem: str
    candidates: list[Solution]


def make_groups(case: str, problems: Sequence[Group]) -> list[Group]:
    """Candidates of a case from the samples of each problem.

    Raises:
        ValueError: no such case.
    """
    return [Group(group.problem, _of_case(case, group.candidates)) for group in problems]


def _of_case(case: str, samples: list[Solution]) -> list[Solution]:
    first = samples[0]
    if case == "next step":
        return [[*first[:-1], sample[-1]] for sample in samples]
    if case == "roll-outs":
        return [[*first[: len(first) // 2], *sample[len(sample) // 2 :]] for sample in samples]
    if case == "independent":
        return samples
    raise ValueError(f"case {case!r} does not exist; the cases are {', '.join(CASES)}")


def read_problems(path: Path, groups: int, candidates: int) -> list[Group]:
    """Problems whose samples all have a few steps, spread over the file.

    Raises:
        ValueError: there are too few.
    """
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        samples = [split_steps(text) for text in row["response"][:candidates]]
        if len(samples) == candidates and all(len(steps) >= LEAST_STEPS for steps in samples):
            found.append(Group(row["question"], samples))
    if len(found) < groups:
        raise ValueError(f"{path} has {len(found)} problems with {candidates} samples of some steps")
    return found[:: len(found) // groups][:groups]


def make_checkpoint(source: Path, folder: Path) -> Path:
    """A language model as a token classifier with a random head and `<extra_0>` as the separator."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [EXTRA]})
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(
        source, num_labels=2, dtype=torch.float32, local_files_only=True
    )
    model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size), mean_resizing=False)
    model.score.weight.data.normal_(std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(folder: Path, cases: dict[str, list[Group]], peer: Peer) -> dict[str, dict[str, Any]]:
    """Both sides over all groups of each case, in turn.

    Returns:
        by case: candidates/s of `ours` and `card`, their `ratio`, `least_ratio` of a group, `ratios` of the
        groups, `gap` (largest difference of a score), `tokens` of all candidates, and the `distinct` ones
        among them.
    """
    scorer = TransformersScorer(folder)
    asyncio.run(scorer.start())
    if not scorer.shares:
        raise ValueError(f"{folder} is of an architecture whose candidates cannot share a pass")

    def ours(group: Group) -> tuple[list[list[float]], float]:
        began = time.perf_counter()
        scores = scorer.scores_of_steps(group.problem, group.candidates)
        return scores, time.perf_counter() - began

    def card(group: Group) -> tuple[list[list[float]], float]:
        reply = peer.ask({"problem": group.problem, "candidates": group.candidates})
        return reply["scores"], reply["seconds"]

    warm_up = next(iter(cases.values()))[0]
    card(Group(warm_up.problem, warm_up.candidates[:1]))
    ours(Group(warm_up.problem, warm_up.candidates[:1]))
    figures = {}
    for case, groups in cases.items():
        seconds: dict[str, list[float]] = {"ours": [], "card": []}
        gap, tokens, distinct = 0.0, 0, 0
        for number, group in enumerate(track(groups, case, console=console)):
            scores = {}
            # Who goes first changes, too: a machine that warms up or slows down favours nobody.
            for name, side in [("card", card), ("ours", ours)][:: -1 if number % 2 else 1]:
                time.sleep(SETTLE)
                scores[name], spent = side(group)
                seconds[name].append(spent)
            gap = max(gap, _gap(scores["ours"], scores["card"]))
            whole, once = _count(scorer, group)
            tokens, distinct = tokens + whole, distinct + once
        count = sum(len(group.candidates) for group in groups)
        ratios = [card / ours for ours, card in zip(seconds["ours"], seconds["card"], strict=True)]
        figures[case] = {
            "ours": count / sum(seconds["ours"]),
            "card": count / sum(seconds["card"]),
            "ratio": statistics.median(ratios),
            "least_ratio": min(ratios),
            "ratios": ratios,
            "gap": gap,
            "tokens": tokens,
            "distinct": distinct,
        }
    return figures


def _gap(first: list[list[float]], second: list[list[float]]) -> float:
    if [len(row) for row in first] != [len(row) for row in second]:
        raise ValueError("the two sides see different numbers of steps: their times mean nothing")
    pairs = [pair for rows in zip(first, second, strict=True) for pair in zip(*rows, strict=True)]
    return max(abs(one - other) for one, other in pairs)


def _count(scorer: TransformersScorer, group: Group) -> tuple[int, int]:
    """Tokens of all candidates with their prompts, and of the tree that they make."""
    sequences = [layout.ids for layout in scorer.sequences(group.problem, group.candidates)]
    return sum(map(len, sequences)), len(grow(sequences).ids)


def section(figures: dict[str, Any]) -> list[str]:
    """The page's section on step scores."""
    lines = [
        f"Candidates/s of a process reward model ({figures['model']}, float32): ours, which puts what a",
        "problem's candidates share through the model once, and the loop over candidates that model cards",
        f"show; {figures['groups']} problems with {figures['candidates']} candidates of real samples each,",
        "the two in turn; ratio: median over the problems. Largest difference of a score:",
        f"{max(row['gap'] for row in figures['cases'].values()):.0e} (limit {GAP_LIMIT:.0e}).",
        "",
        "| Candidates | Tokens | Distinct | Card's loop | Ours | Ratio | Least | Aim |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case, row in figures["cases"].items():
        aim = f"{RATIO_LIMIT:g}" if case == CASES[0] else ""
        lines.append(
            f"| {case} | {row['tokens']} | {row['distinct']} | {row['card']:.2f} | {row['ours']:.2f} "
            f"| {row['ratio']:.2f} | {row['least_ratio']:.2f} | {aim} |"
        )
    return lines


@app.command()
def main(
    groups: Annotated[int, typer.Option(min=1, help="Problems of each case.")] = 3,
    candidates: Annotated[int, typer.Option(min=2, max=8, help="Candidates of a problem.")] = 8,
    model: Annotated[
        Path | None, typer.Option(help="Language model's folder.", show_default="kit.models'")
    ] = None,
    python: Python = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Measure both and compare; exit code 1 where a demand is missed."""
    path = shared_file(SAMPLES)
    if path is None:
        raise ValueError(f"{SAMPLES} is not here: set AIMO_SHARED to its folder")
    problems = read_problems(path, groups, candidates)
    source = model or default_model()
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(source, Path(scratch) / "prm")
        with open_peer(python or Path(sys.executable), "cards", peer_settings(folder)) as peer:
            cases = measure(folder, {case: make_groups(case, problems) for case in CASES}, peer)
    figures: dict[str, Any] = {
        "model": source.name,
        "groups": groups,
        "candidates": candidates,
        "cases": cases,
        "versions": peer.versions,
    }
    _print(figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")
    if cases[CASES[0]]["ratio"] < RATIO_LIMIT or any(row["gap"] > GAP_LIMIT for row in cases.values()):
        raise typer.Exit(1)


def peer_settings(folder: Path) -> dict[str, Any]:
    """What the peer's side is told, with as many threads as ours has."""
    import torch

    return {"folder": str(folder), "separator": EXTRA, "threads": torch.get_num_threads()}


def _print(figures: dict[str, Any]) -> None:
    table = Table(title="Step scores: candidates/s, ours and a model card's loop")
    for name in ("", "tokens", "distinct", "card", "ours", "ratio", "least", "gap"):
        table.add_column(name, justify="right" if name else "left")
    for case, row in figures["cases"].items():
        values = [f"{row[name]:.0f}" for name in ("tokens", "distinct")]
        values += [f"{row[name]:.2f}" for name in ("card", "ours", "ratio", "least_ratio")]
        table.add_row(case, *values, f"{row['gap']:.1e}")
    console.print(table)


if __name__ == "__main__":
    run(app)
