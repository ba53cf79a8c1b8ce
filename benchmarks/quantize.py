"""Quantized beside unquantized: what a small model answers in the contest's engine, by each scheme.

    python -m benchmarks.quantize [--problems 300] [--folder DIR] [--json PATH]

A model of some 220,000 parameters learns the generator's worked sums and is stored in bfloat16, as contest
models are; so does one whose training is cut short, since it has more answers that could go either way. Each
scheme goes the way of `kit.package --quantize`, calibrated and judged on validation
problems. Then vLLM answers the same held-out test problems greedily with each model. Exit code 1 where a
scheme of `DEMANDED` loses more than `POINTS_LIMIT` points.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.learning.settings import DISTILL, DistillStudy
from benchmarks.learning.study import train_stage
from benchmarks.shared import ROOT
from kit.data.records import Record, write_records
from kit.package.quantize import load
from kit.package.quantize.layers import read_tensors
from kit.package.quantize.run import quantize
from kit.package.quantize.schemes import SCHEMES
from kit.package.quantize.traces import Wanted
from kit.worked import generate
from submission.answers import check, parse_gold
from submission.cli import run
from submission.files import write_text

DEMANDED = ("int8", "fp8")
SHOWN = (*DEMANDED, "int8-rtn", "w4a16", "w4a16-rtn")
MODELS: dict[str, int | None] = {"trained": None, "cut short": 400}
"""Optimizer steps; None for the study's own."""
POINTS_LIMIT = 2.0
NEW_TOKENS = 96
TRACES = 500
FOLDER = ROOT / "build" / "learning" / "quantize"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(soft_wrap=True, emoji=False, highlight=False)


def trained_model(study: DistillStudy, folder: Path, steps: int | None) -> Path:
    """The study's teacher, trained once and stored in bfloat16.

    Args:
        steps: of the optimizer; None for the study's own number.
    """
    made = folder / "model-bf16"
    if made.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    stage = study.teacher
    if steps is not None:
        stage = stage.model_copy(update={"training": stage.training.model_copy(update={"steps": steps})})
    write_records(folder / "teacher.jsonl", generate(stage.problems, "train", 0, stage.difficulty))
    source = train_stage(study, stage, folder, "teacher")
    import torch
    from transformers import AutoModelForCausalLM

    work = folder / ".model-bf16.tmp"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.bfloat16).save_pretrained(work)
    work.rename(made)
    return made


def answer(folder: Path, records: Sequence[Record], dtype: str) -> list[str]:
    """The model's greedy completions, by vLLM in a process of its own."""
    from kit.training.chat import open_chat
    from kit.training.model import load_tokenizer

    chat = open_chat(load_tokenizer(folder))
    question = {
        "folder": str(folder.resolve()),
        "prompts": [chat.prompt(record) for record in records],
        "new_tokens": NEW_TOKENS,
        "dtype": dtype,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.quantize_answers"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise ValueError(f"vllm could not answer with {folder}: {done.stderr.strip()[-400:]}")
    texts: list[str] = json.loads(done.stdout.splitlines()[-1])
    return texts


def right(texts: Sequence[str], records: Sequence[Record]) -> list[bool]:
    """Which completions give the gold answer."""
    return [check(text, parse_gold(record.answer)) for text, record in zip(texts, records, strict=True)]


def row(
    name: str, model: Path, wanted: Wanted, records: Sequence[Record], base: Sequence[bool]
) -> dict[str, Any] | None:
    """One scheme's figures; None where this machine's engine cannot serve it."""
    scheme, gpu = SCHEMES[name], load.has_gpu()
    if load.why_not_vllm(scheme, gpu=gpu):
        return None
    made = quantize(
        model, scheme, wanted, say=lambda line: console.print(f"{name}: {line}", markup=False), max_loss=1.0
    )
    solved = right(answer(made.folder, records, load.dtype_of(scheme, gpu=gpu)), records)
    report = made.report
    return {
        "scheme": name,
        "ratio": report["size"]["ratio"],
        "bytes": report["size"]["after"],
        "figures": dict(report["figures"]),
        "load_check": dict(report["load_check"]),
        "calibration": report["calibration"],
        "right": sum(solved),
        "points": 100 * (sum(solved) - sum(base)) / len(records),
        "flipped": sum(mine != other for mine, other in zip(solved, base, strict=True)),
    }


def section(figures: Mapping[str, Any]) -> list[str]:
    """Lines of BENCHMARKS.md."""
    first = figures["models"][0]
    lines = [
        f"Small models ({first['parameters']:,} parameters, {first['bytes'] / 1e3:.0f} kB in bfloat16) write",
        f"answers to {figures['problems']} held-out worked sums greedily in vLLM, one after a training that",
        "was cut short: it has more answers that could go either way. Each scheme is made by `kit.package`",
        "and judged on 64 held-out traces; then the same problems in the same engine. Points: against",
        "the unquantized model; flipped: solved by one of the two alone; gap: nats a token between vLLM and",
        f"transformers. Aim of {' and '.join(DEMANDED)}: at most {POINTS_LIMIT:g} points lost. Embeddings,",
        "scales and the tokenizer are a large part of so small a model: large ones come closer to a half and",
        "a quarter of the size.",
        "",
        "| Model | Scheme | Size | Right | Points | Flipped | Perplexity | Same token | KL (nats) | Gap |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for model in figures["models"]:
        lines.append(f"| {model['name']} | none | 1 | {model['right']} | | | | | | |")
        for entry in model["rows"]:
            seen = entry["figures"]
            lines.append(
                f"| | {entry['scheme']} | {entry['ratio']:.2f} | {entry['right']} | {entry['points']:+.1f} "
                f"| {entry['flipped']} | {seen['perplexity_before']:.4f} → {seen['perplexity_after']:.4f} "
                f"| {seen['agreement']:.2%} | {seen['kl']:.1e} | {entry['load_check']['difference']:.4f} |"
            )
    return lines


@app.command()
def main(
    problems: Annotated[int, typer.Option(min=1, help="Held-out problems to answer.")] = 300,
    folder: Annotated[
        Path, typer.Option(help="Where trained models are kept.", show_default="build/learning/quantize")
    ] = FOLDER,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Train, quantize, answer, compare; exit code 1 where a demand is missed."""
    study = DistillStudy.load(DISTILL)
    models = [one_model(study, name, steps, folder, problems) for name, steps in MODELS.items()]
    figures: dict[str, Any] = {"problems": problems, "models": models}
    _print(figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")
    demanded = [entry for model in models for entry in model["rows"] if entry["scheme"] in DEMANDED]
    if not demanded or any(entry["points"] < -POINTS_LIMIT for entry in demanded):
        raise typer.Exit(1)


def one_model(
    study: DistillStudy, name: str, steps: int | None, folder: Path, problems: int
) -> dict[str, Any]:
    """One model's answers, and every scheme's."""
    model = trained_model(study, folder / name.replace(" ", "-"), steps)
    difficulty = study.teacher.difficulty
    records = generate(problems, "test", study.test_seed, difficulty)
    traces = folder / "traces.jsonl"
    write_records(traces, generate(TRACES, "validation", 0, difficulty))
    base = right(answer(model, records, "auto"), records)
    console.print(f"{name}, unquantized: {sum(base)} of {len(base)} right")
    rows = [found for scheme in SHOWN if (found := row(scheme, model, Wanted((traces,)), records, base))]
    tensors = read_tensors(model).values()
    return {
        "name": name,
        "right": sum(base),
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors),
        "bytes": sum(tensor.size for tensor in tensors),
        "rows": rows,
    }


def _print(figures: Mapping[str, Any]) -> None:
    table = Table(title="Quantized beside unquantized")
    for name in ("model", "scheme", "size", "right", "points", "flipped", "agreement", "KL"):
        table.add_column(name, justify="left" if name in ("model", "scheme") else "right")
    for model in figures["models"]:
        table.add_row(model["name"], "none", "1", str(model["right"]))
        for entry in model["rows"]:
            seen = entry["figures"]
            values = [f"{entry['ratio']:.2f}", str(entry["right"]), f"{entry['points']:+.1f}"]
            values += [str(entry["flipped"]), f"{seen['agreement']:.2%}", f"{seen['kl']:.1e}"]
            table.add_row("", entry["scheme"], *values)
    console.print(table)


if __name__ == "__main__":
    run(app)
