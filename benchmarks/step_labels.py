"""How often step labels with adaptive stop agree with those of 32 roll-outs, and what they cost.

    python -m benchmarks.step_labels

Small models of different accuracy, trained for different times on the same problems, write solutions; from
every prefix each draws twice 32 roll-outs, once. Labels of every kind are then read off the same roll-outs.
About six CPU-minutes, two of them training.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.grpo_models import make_small
from kit.data.records import Record, read_records
from kit.steps.labels import Ask, Search, StepLabel, first_error
from kit.steps.outcomes import Outcomes, prefix_key
from kit.steps.recipe import StepsRecipe
from kit.steps.replay import replay
from kit.steps.rounds import Outline, Policy
from kit.steps.stopping import Design, needed_successes
from submission.answers import check, parse_gold
from submission.cli import run
from submission.engines.base import Sampling
from submission.files import write_text
from submission.steps import split_steps

FULL = 32
TRAINING = (350, 400, 500)
"""Steps of fine-tuning of each model."""
WANTED = (0.95, 0.4)
"""Agreement at least, share of the roll-outs at most."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@dataclass(frozen=True)
class Drawn:
    """A model's traces, and outcomes of 2 * `FULL` roll-outs from each prefix, by its key."""

    outlines: list[Outline]
    rows: dict[str, list[bool]]
    accuracy: float


class Sampler:
    """Samples a small checkpoint as in training: vLLM would take longer to start than it takes to answer."""

    def __init__(self, folder: Path) -> None:
        from kit.training.chat import open_chat
        from kit.training.model import load_causal, load_tokenizer, token_count, wrap
        from kit.training.recipe import ModelSection

        self.chat = open_chat(load_tokenizer(folder))
        self._model = wrap(load_causal(folder, ModelSection(dtype="float32", attention="sdpa")))
        self._count = token_count(self.chat.tokenizer)

    def texts(self, prompts: Sequence[Sequence[int]], seed: int) -> list[tuple[str, bool]]:
        """A completion of each prompt, and whether it ended."""
        import torch

        from kit.training.ranks import Ranks
        from kit.training.sampling import sample_rows

        drawn = sample_rows(
            self._model,
            prompts,
            [(seed << 32) + number for number in range(len(prompts))],
            Sampling(temperature=1.0, max_tokens=96),
            self.chat.end_id,
            self._count,
            Ranks(0, 1, 0, torch.device("cpu")),
            max_rows=1024,
        )
        decode = self.chat.tokenizer.decode
        return [
            (str(decode(row.ids, skip_special_tokens=True)), row.ids[-1] == self.chat.end_id) for row in drawn
        ]


def draw(folder: Path, records: Sequence[Record], traces: int, seed: int) -> Drawn:
    """Solutions of each problem, and roll-outs from each of their prefixes."""
    sampler = Sampler(folder)
    prompts = [sampler.chat.prompt(record) for record in records for _ in range(traces)]
    owners = [record for record in records for _ in range(traces)]
    outlines: list[Outline] = []
    asked: dict[str, tuple[Record, list[int], str]] = {}
    right = 0
    for number, (record, prompt, (text, ended)) in enumerate(
        zip(owners, prompts, sampler.texts(prompts, seed), strict=True)
    ):
        own = ended and check(text, parse_gold(record.answer))
        right += own
        keys = []
        steps = split_steps(text)
        for count in range(1, len(steps)):
            prefix = "\n\n".join(steps[:count]) + "\n\n"
            key = prefix_key(f"{number}", record.answer, prefix)
            ids = sampler.chat.tokenizer(prefix, add_special_tokens=False)["input_ids"]
            asked[key] = (record, [*prompt, *ids], prefix)
            keys.append(key)
        outlines.append(Outline(tuple(keys), own))
    flat = [prompt for _, prompt, _ in asked.values() for _ in range(2 * FULL)]
    texts = iter(sampler.texts(flat, seed + 1))
    rows: dict[str, list[bool]] = {}
    for key, (record, _, prefix) in asked.items():
        gold = parse_gold(record.answer)
        rows[key] = [
            ended and check(prefix + text, gold) for text, ended in (next(texts) for _ in range(2 * FULL))
        ]
    return Drawn(outlines, rows, right / len(owners))


def labels_of(policy: Policy, drawn: Drawn, first: int = 0) -> tuple[dict[int, list[StepLabel]], Outcomes]:
    """What a run with this policy labels and draws; roll-out 0 is the one of number `first`."""
    outcomes = Outcomes(Path("nowhere"))
    found = None
    while True:
        found = replay(policy, drawn.outlines, outcomes, found)
        if found.open_round is None:
            return found.labels, outcomes
        for index in policy.rounds(drawn.outlines)[found.open_round]:
            outline = drawn.outlines[index]
            while isinstance(ask := found.rules.label(outline, outcomes.of, policy.search), Ask):
                key = outline.keys[ask.step]
                for number in ask.rollouts:
                    outcomes.add(key, number, drawn.rows[key][first + number])


def policy(design: Design, *, adaptive: bool = True, search: Search = "all") -> Policy:
    """As a run's defaults make it."""
    names = ("agreement", "spend", "pilot", "audit")
    defaults = {name: StepsRecipe.model_fields[name].default for name in names}
    return Policy(design, adaptive=adaptive, search=search, **defaults)


def measure(drawn: Drawn, threshold: float) -> dict[str, Any]:
    """Agreement and cost of adaptive labels, beside the full ones and beside simply fewer roll-outs."""
    wave, first = (StepsRecipe.model_fields[name].default for name in ("wave", "first_wave"))
    design = Design(FULL, needed_successes(FULL, threshold), wave, first)
    fixed, cost = labels_of(policy(design, adaptive=False), drawn)
    other, _ = labels_of(policy(design, adaptive=False), drawn, FULL)
    found, spent = labels_of(policy(design), drawn)
    few = Design(FULL * 3 // 8, needed_successes(FULL * 3 // 8, threshold), FULL)
    fewer, _ = labels_of(policy(few, adaptive=False), drawn)
    bisected, searched = labels_of(policy(design, search="first_error"), drawn)
    audits = [label.audit for row in found.values() for label in row if label.audit is not None]
    wrong = [index for index, outline in enumerate(drawn.outlines) if not outline.own]

    def errors(labels: dict[int, list[StepLabel]]) -> list[int]:
        return [first_error([label.right for label in labels[index]]) for index in wrong]

    flat = [label.right for row in fixed.values() for label in row if label.rollouts]
    return {
        "accuracy": drawn.accuracy,
        "threshold": threshold,
        "prefixes": len(drawn.rows),
        "right": sum(flat) / len(flat),
        "agreement": agreement(found, fixed),
        "share": spent.rollouts / cost.rollouts,
        "other_draw": agreement(found, other),
        "full_other_draw": agreement(fixed, other),
        "fewer": agreement(fewer, fixed),
        "audits": len(audits),
        "audits_agree": sum(audits),
        "first_error": agree(errors(found), errors(fixed)),
        "bisection_first_error": agree(errors(bisected), errors(fixed)),
        "bisection_share": searched.rollouts / cost.rollouts,
    }


def agreement(labels: dict[int, list[StepLabel]], others: dict[int, list[StepLabel]]) -> float:
    """Share of equal labels, last steps (that no roll-out judges) left out."""
    return agree(
        [label.right for index in sorted(labels) for label in labels[index][:-1]],
        [label.right for index in sorted(others) for label in others[index][:-1]],
    )


def agree(some: Sequence[object], others: Sequence[object]) -> float:
    """Share of equal places."""
    return sum(a == b for a, b in zip(some, others, strict=True)) / len(some)


def section(figures: dict[str, Any]) -> list[str]:
    """Of BENCHMARKS.md."""
    lines = [
        "Labels of prefixes by Monte Carlo, small models of different accuracy: adaptive stop (rules learnt",
        f"from a pilot of 32 prefixes, agreement 0.955 wanted) against {FULL} a prefix, off the same",
        "ones. A label is right where at least the threshold's share of roll-outs is; 0.031: any of 32.",
        f"Aim: agreement at least {WANTED[0]:g} with at most {WANTED[1]:g} times the roll-outs. Other draw:",
        f"agreement with {FULL} roll-outs of other seeds, and that of two full labels with each other.",
        "",
        "| Model solves | Threshold | Prefixes | Right | Agreement | Roll-outs | Other draw | Full, other "
        "draw | 12 roll-outs agree | First error agrees | Bisection: agrees | Roll-outs |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['accuracy']:.2f} | {row['threshold']:.3f} | {row['prefixes']} | {row['right']:.2f} "
        f"| {row['agreement']:.3f} | {row['share']:.2f} | {row['other_draw']:.3f} "
        f"| {row['full_other_draw']:.3f} | {row['fewer']:.3f} | {row['first_error']:.2f} "
        f"| {row['bisection_first_error']:.2f} | {row['bisection_share']:.2f} |"
        for row in figures["rows"]
    ]
    return lines


@app.command()
def main(
    folder: Annotated[Path, typer.Option(help="Where models are kept between runs.")] = Path("build/steps"),
    problems: Annotated[int, typer.Option(help="Problems of each model.")] = 240,
    traces: Annotated[int, typer.Option(help="Solutions a problem.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the roll-outs.")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="File for the figures.")] = None,
) -> None:
    """Train, draw, measure, print."""
    rows = []
    for steps in TRAINING:
        model = make_small(folder / str(steps), problems, steps=steps)
        records = list(read_records(folder / str(steps) / "problems.jsonl"))
        drawn = draw(model, records, traces, 1_000 * seed + steps)
        rows += [measure(drawn, threshold) for threshold in (1 / FULL, 1 / 16, 1 / 8)]
    figures = {"rows": rows}
    console.print("\n".join(section(figures)), soft_wrap=True, highlight=False)
    if out:
        write_text(out, json.dumps(figures, indent=1) + "\n")
    chosen = [row for row in rows if row["threshold"] == 1 / 8]
    if any(row["agreement"] < WANTED[0] or row["share"] > WANTED[1] for row in chosen):
        sys.exit(1)


if __name__ == "__main__":
    run(app)
