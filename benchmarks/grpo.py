"""Speed of GRPO: our training core beside TRL's GRPOTrainer, in one run.

    python -m benchmarks.grpo [--rounds 3] [--python PATH] [--json PATH]

Two models on sums from `kit.worked`, in float32 on the CPU: one of 0.2 M parameters that has learnt them for
a while (made at the first run, and kept under build/), and SmolLM2-135M-Instruct (`--model` names one alone).
Both sides get the same weights, the same prompts in the same order, groups of the same size, temperature 1,
the same limit, the same rewards, DAPO's loss without a reference, one AdamW (fused) update a batch at the
same rate, clipping at 1, and the same number of threads. Neither replaces groups without signal. TRL's
environment has nothing of ours: its rewards are a few lines beside its trainer. How many of its prompts and
rewards would have been others on our side is counted, and the norm of its first step's gradient is held
against ours for the same completions.

Ours is the command that users run, `kit.grpo.phase.grpo`, sampling by the trainer's own weights
(`rollout.sampler = "local"`). TRL samples by transformers' `generate`. Its other way, continuous batching,
was ten times slower on a CPU (`--peer SIZE-continuous` measures it), and its vLLM back-end wants CUDA. How
many completions a training pass of TRL's holds is free: every `--peer` is such a number, and the fastest one
is compared with.

Completions of a group whose rewards are all equal add nothing to the gradient; ours leaves them out of the
training passes, TRL puts them through the model. The page says how many that were. Ours also puts a group's
prompt through once (`kit.training.sharing`), and multiplies float32 matrices by oneDNN where torch, and so
TRL, takes MKL (`kit.training.products`): on AMD's processors that alone is a factor of about two.

Every side of every round is a process of its own; the order changes from round to round. Timed are steps
after the warm-up, from prompts to the update, our table of roll-outs included.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.grpo_models import make_small, obtain_smollm2
from benchmarks.grpo_sides import OURS, Measured, Settings, wake_checkers
from benchmarks.grpo_trl import train_trl
from benchmarks.peers.process import Python
from benchmarks.sft import rotated, spread
from benchmarks.shared import ROOT
from submission.cli import run
from submission.files import write_text

AIM, MINIMUM, OTHER = 2.0, 1.5, 0.05
"""Ratio of completions a second, and largest share of our steps that is neither sampling nor gradient."""
SMALL, SMOLLM2 = "small", "smollm2"
NAMES = {SMALL: "0.2 M parameters", SMOLLM2: "SmolLM2-135M-Instruct"}
PEERS = {SMALL: ("256", "128"), SMOLLM2: ("16",)}
"""Completions of TRL's training passes: the fastest of the powers of two on one core."""
FOLDER = ROOT / "build" / "grpo"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


def measure(
    settings: Settings, peers: Sequence[str], rounds: int, folder: Path, python: Path
) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """Our side and TRL's in turn, in processes of their own; and the versions of TRL's.

    Args:
        peers: completions of a training pass of TRL's, with `-continuous` for its other way to sample.
        python: interpreter of TRL's environment.
    """
    sides = [OURS, *peers]
    found: dict[str, list[Measured]] = {side: [] for side in sides}
    versions: dict[str, str] = {}
    turns = [side for number in range(rounds) for side in rotated(sides, number)]
    for side in track(turns, "training", console=console):
        if side == OURS:
            measured = run_ours(settings, folder)
        else:
            measured, versions = train_trl(settings, side, python)
        found[side].append(measured)
        console.print(
            f"{side}: {measured.speed:.2f} completions/s, {measured.tokens / measured.seconds:.0f} tokens/s, "
            f"reward {measured.reward:.2f}",
            highlight=False,
        )
    return found, versions


def run_ours(settings: Settings, folder: Path) -> Measured:
    """Our side, in a process of its own.

    Raises:
        ValueError: it failed; the message has the end of its log.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        given, result, log = (Path(scratch) / name for name in ("settings.json", "result.json", "log"))
        write_text(given, json.dumps(asdict(settings)))
        with log.open("w") as file:
            code = subprocess.run(
                [sys.executable, "-m", "benchmarks.grpo_sides", str(given), str(result)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": str(settings.threads)},
                stdout=file,
                stderr=file,
                check=False,
            ).returncode
        if code:
            tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise ValueError(f"our side ended with code {code}:\n{tail}")
        return Measured(**json.loads(result.read_text(encoding="utf-8")))


def summary(found: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """Ratios of the rounds against the fastest of TRL's ways, and each side's figures."""
    speeds = {side: [one.speed for one in measured] for side, measured in found.items()}
    peer = max((side for side in found if side != OURS), key=lambda side: statistics.median(speeds[side]))
    ratios = [ours / theirs for ours, theirs in zip(speeds[OURS], speeds[peer], strict=True)]
    return {
        "peer": peer,
        "ratios": ratios,
        "ratio": spread(ratios),
        "sides": {side: _side(measured) for side, measured in found.items()},
    }


def _side(measured: Sequence[Measured]) -> dict[str, Any]:
    completions = sum(one.completions for one in measured)
    seconds = sum(one.seconds for one in measured)

    def mean(name: str) -> float:
        """Of a completion."""
        return float(sum(getattr(one, name) for one in measured) / completions)

    return {
        "completions_per_second": spread(one.speed for one in measured),
        "tokens_per_second": spread(one.tokens / one.seconds for one in measured),
        "milliseconds": {name: 1000 * mean(name) for name in ("seconds", "sampling", "gradient")},
        "other": sum(one.other * one.seconds for one in measured) / seconds,
        "mean_tokens": mean("tokens"),
        "cut_off": mean("cut_off"),
        "trained": mean("trained"),
        "reward": statistics.mean(one.reward for one in measured),
        "peak_bytes": max(one.peak_bytes for one in measured),
        "other_prompts": sum(one.other_prompts for one in measured),
        "other_rewards": sum(one.other_rewards for one in measured),
        "gradient_gap": max(one.gradient_gap for one in measured),
    }


def section(figures: dict[str, Any]) -> list[str]:
    """GRPO against TRL, for the page."""
    lines = [
        "`kit.grpo` and TRL's `GRPOTrainer` on the same sums, prompts, rewards, loss and learning rate, in",
        f"float32 with {figures['threads']} threads, in turn. TRL samples by transformers' `generate`: its",
        "continuous batching is far slower on a CPU, and its vLLM wants CUDA. Ratio of completions a second,",
        f"end to end, to TRL's faster way (at least {MINIMUM}, aim {AIM:g}), and our share of a step that is",
        f"neither sampling nor gradient work (under {OTHER:.0%}):",
        "",
    ]
    for name, row in figures["models"].items():
        ratio, ours = row["ratio"], row["sides"][OURS]
        task = f"{row['batch_size']} prompts x {row['group_size']}, {row['max_tokens']} tokens at most"
        if row["repetition"]:
            task += ", also rewarded for not repeating itself since it solves hardly any"
        runs = f"{row['rounds']} runs of {row['steps']} steps"
        lines.append(
            f"- {NAMES[name]}, {task}, {runs}: **{ratio['median']:.2f}** ({ratio['min']:.2f} to "
            f"{ratio['max']:.2f}), {ours['other']:.1%}."
        )
    lines += [
        "",
        "Milliseconds a completion go into sampling, gradient work (forward, backward, update) and the rest,",
        "such as rewards and the table. Trained: completions that went through the model for their gradient;",
        "in groups with equal rewards it is 0, and ours leaves them out. Ours puts a group's prompt through",
        "the model once, and multiplies by oneDNN where torch, and so TRL, takes MKL, slow on AMD's CPUs.",
        "",
        "| Model | Side | Completions/s: least | Median | Greatest | Tokens/s | Sampling (ms) "
        "| Gradient (ms) | Rest (ms) | Rest | Mean tokens | Reward | Trained | Peak (GiB) |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in figures["models"].items():
        for side, values in row["sides"].items():
            speeds, times = values["completions_per_second"], values["milliseconds"]
            rest = times["seconds"] - times["sampling"] - times["gradient"]
            lines.append(
                f"| {NAMES[name]} | {title(side)} | {speeds['min']:.2f} | {speeds['median']:.2f} "
                f"| {speeds['max']:.2f} | {values['tokens_per_second']['median']:.0f} "
                f"| {times['sampling']:.2f} | {times['gradient']:.2f} | {rest:.2f} | {values['other']:.1%} "
                f"| {values['mean_tokens']:.1f} | {values['reward']:.2f} | {values['trained']:.0%} "
                f"| {values['peak_bytes'] / 2**30:.2f} |"
            )
    return lines


def title(side: str) -> str:
    """What a side is called on the page."""
    if side == OURS:
        return side
    size, _, how = side.partition("-")
    return f"TRL, {size} at a time" + (f", {how} batching" if how else "")


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of a run of the small model.")] = 12,
    model: Annotated[Literal["small", "smollm2", "both"], typer.Option(help="What is trained.")] = "both",
    threads: Annotated[int | None, typer.Option(min=1, help="Of each side. Default: one a core.")] = None,
    sampler: Annotated[Literal["local", "vllm"], typer.Option(help="Of our side.")] = "local",
    peer: Annotated[
        list[str] | None,
        typer.Option(help="TRL's completions of a training pass (64), or 64-continuous. Repeatable."),
    ] = None,
    python: Python = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Train with both and compare; exit code 1 where ours is under a bound."""
    names = [SMALL, SMOLLM2] if model == "both" else [model]
    threads = threads or os.cpu_count() or 1
    figures: dict[str, Any] = {"rounds": rounds, "threads": threads, "models": {}}
    with tempfile.TemporaryDirectory(prefix="aimo-grpo-") as scratch:
        shapes = {name: _shape(name, steps, threads, sampler) for name in names}
        for shape in shapes.values():
            check_peers(peer or (), shape)
        for name, shape in shapes.items():
            console.rule(NAMES[name])
            settings = _obtained(name, shape)
            wake_checkers(settings)
            turns = rounds if name == SMALL else 1  # minutes a run
            found, figures["versions"] = measure(
                settings, peer or PEERS[name], turns, Path(scratch), python or Path(sys.executable)
            )
            # Without the places on this machine.
            told = {key: value for key, value in asdict(settings).items() if key not in {"data", "model"}}
            figures["models"][name] = summary(found) | told | {"rounds": turns}
    _print(figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")
    if not passed(figures):
        raise typer.Exit(1)


def _shape(name: str, steps: int, threads: int, sampler: str) -> Settings:
    if name == SMALL:
        return Settings("", "", 32, 8, 96, steps, 2, threads, sampler)
    return Settings("", "", 4, 4, 64, 2, 1, threads, sampler, lr=1e-6, repetition=0.1)


def _obtained(name: str, shape: Settings) -> Settings:
    """With the model and the problems, which are made or fetched where they are not here."""
    import torch

    torch.set_num_threads(1)  # the fastest for the training of a small model
    folder, count = FOLDER / name, shape.batch_size * (shape.warm_up + shape.steps)
    model = make_small(folder, count) if name == SMALL else obtain_smollm2(folder, count)
    return replace(shape, model=str(model), data=str(folder / "problems.jsonl"))


def check_peers(peers: Sequence[str], settings: Settings) -> None:
    """Raise unless TRL can cut a step into passes of these sizes.

    Raises:
        ValueError: naming the peer and the sizes that there are.
    """
    for peer in peers:
        size, _, how = peer.partition("-")
        known = size.isdecimal() and int(size) > 0 and how in {"", "continuous"}
        if not known or settings.samples % int(size):
            raise ValueError(
                f"--peer {peer!r} must be a number that divides the {settings.samples} completions of a "
                "step, with -continuous after it for continuous batching"
            )


def passed(figures: Mapping[str, Any]) -> bool:
    """Whether every model's ratio and rest of a step are within the bounds."""
    rows = cast("Mapping[str, Any]", figures["models"]).values()
    return all(row["ratio"]["median"] >= MINIMUM and row["sides"][OURS]["other"] < OTHER for row in rows)


def _print(figures: Mapping[str, Any]) -> None:
    table = Table(title="GRPO: ours and TRL's GRPOTrainer")
    for name in ("model", "side", "completions/s", "tokens/s", "sampling", "gradient", "rest", "ratio"):
        table.add_column(name, justify="left" if name in {"model", "side"} else "right")
    for name, row in figures["models"].items():
        for side, values in row["sides"].items():
            times = values["milliseconds"]
            table.add_row(
                name,
                title(side),
                f"{values['completions_per_second']['median']:.2f}",
                f"{values['tokens_per_second']['median']:.0f}",
                *(f"{times[part] / times['seconds']:.1%}" for part in ("sampling", "gradient")),
                f"{values['other']:.1%}",
                f"{row['ratio']['median']:.2f}" if side == row["peer"] else "",
            )
    console.print(table)


if __name__ == "__main__":
    run(app)
