"""Speed and memory of supervised fine-tuning: our training core beside TRL's SFTTrainer, in one run.

    python -m benchmarks.sft [--rounds 3] [--json PATH]

SmolLM2-135M-Instruct in float32 on the CPU, on GSM8K's worked solutions (made-up ones where that set is not
here). Both sides get the same token rows with the same tokens trained, AdamW (fused) at the same rate,
clipping at 1, no gradient checkpointing, and micro-batches of the same size. Ours is the command that users
run, `kit.distill.phase.distill`, with `loss.alpha = 0`. TRL runs with packing on, in both of its ways: `bfd`,
which keeps rows apart by a mask, and `wrapped`, which lets them see each other; the faster one is the peer.
On a CPU TRL's head scores prompt tokens too, and twice (forward and backward); with Triton it would leave
them out, so the ratio here says little about a GPU.

Every side of every round is a process of its own; the order changes from round to round, so that a machine
whose speed drifts slows all alike. Timed are optimizer steps after the warm-up, from the first forward pass
to the update; ours also includes fetching and packing the rows. Counted are real tokens without padding.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.shared import ROOT, shared_file
from submission.cli import run
from submission.files import write_text

OURS, PEERS = "ours", ("bfd", "wrapped")
AIM, MINIMUM = 1.3, 1.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@dataclass(frozen=True)
class Settings:
    """What both sides have in common.

    Args:
        data: trace file of the rows.
        micro_tokens: tokens of one forward pass at most.
        micros: forward passes of one optimizer step (TRL's gradient accumulation).
        batch_size: rows of our optimizer step, chosen to fill them.
        steps: timed; `warm_up` more come first.
    """

    model: str
    data: str
    micro_tokens: int
    micros: int
    batch_size: int
    steps: int
    warm_up: int
    lr: float = 1e-5


@dataclass(frozen=True)
class Measured:
    """One side in one round.

    Args:
        seconds: of the timed steps together.
        tokens: real tokens of these steps.
        trained: those of them that carry a loss.
        loss: mean over the timed steps.
        peak_bytes: largest resident memory of the process up to the last step.
    """

    seconds: float
    tokens: int
    trained: int
    loss: float
    peak_bytes: int

    @property
    def speed(self) -> float:
        """Real tokens a second."""
        return self.tokens / self.seconds


def train_ours(settings: Settings, folder: Path) -> Measured:
    """One run of the first phase; what it measured stands in its metrics."""
    from kit.distill.phase import distill
    from kit.distill.recipe import DistillRecipe
    from kit.training.loop import METRICS
    from kit.training.metrics import read_metrics

    sections: dict[str, Any] = {
        "out": str(folder),
        "model": {"path": settings.model, "dtype": "float32", "gradient_checkpointing": False},
        "batch": {
            "batch_size": settings.batch_size,
            "max_length": settings.micro_tokens,
            "max_steps": settings.warm_up + settings.steps,
        },
        "optimizer": {"lr": settings.lr, "schedule": "constant", "warmup_ratio": 0.0},
        "parallel": {"engine": "torch"},
        "checkpoint": {"every": 0},
        "data": {"path": settings.data},
        "loss": {"alpha": 0.0},
        "logging": {"live": "never"},
    }
    distill(DistillRecipe.parse(sections, "the benchmark"))
    lines = [line for line in read_metrics(folder / METRICS) if line.kind == "train"]
    before, timed = lines[: settings.warm_up], lines[settings.warm_up :]
    trained = [int(line.values["trained_tokens"]) for line in lines]  # counted from the run's start
    return Measured(
        seconds=sum(line.time["seconds"] for line in timed),
        tokens=sum(int(line.values["step_tokens"]) for line in timed),
        trained=trained[-1] - (trained[len(before) - 1] if before else 0),
        loss=statistics.mean(float(line.values["loss"]) for line in timed),
        peak_bytes=round(timed[-1].time["peak_memory_gb"] * 1e9),
    )


def train_trl(settings: Settings, strategy: str, folder: Path) -> Measured:
    """TRL's trainer over the same rows."""
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from kit.training.model import load_tokenizer

    disable_progress_bars()
    tokenizer = load_tokenizer(Path(settings.model))
    rows = token_rows(settings, tokenizer)
    ended: list[tuple[float, int]] = []
    counts: list[tuple[int, int, float]] = []

    class Trainer(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")  # none where rows lie end to end without padding
            tokens = inputs["input_ids"].numel() if mask is None else int(mask.sum())
            trained = int((inputs["labels"] != -100).sum())
            loss = super().training_step(model, inputs, *rest, **named)  # type: ignore[no-untyped-call]
            counts.append((tokens, trained, float(loss)))
            return loss

    class Clock(TrainerCallback):  # type: ignore[misc]  # a lazy import, so of no known type
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            ended.append((time.perf_counter() - self.began, peak))

    arguments = SFTConfig(
        output_dir=str(folder),
        packing=True,
        packing_strategy=strategy,
        max_length=settings.micro_tokens,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.micros,
        max_steps=settings.warm_up + settings.steps,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        optim="adamw_torch_fused",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        learning_rate=settings.lr,
        lr_scheduler_type="constant",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(
        settings.model, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    timed = counts[settings.warm_up * settings.micros :]
    return Measured(
        seconds=sum(seconds for seconds, _ in ended[settings.warm_up :]),
        tokens=sum(tokens for tokens, _, _ in timed),
        trained=sum(trained for _, trained, _ in timed),
        loss=sum(loss for _, _, loss in timed) / settings.steps,
        peak_bytes=ended[-1][1],
    )


def token_rows(settings: Settings, tokenizer: Any) -> list[dict[str, list[int]]]:
    """Our token rows in TRL's terms: a label of -100 is not trained."""
    from kit.data.records import read_records
    from kit.training.chat import open_chat

    chat = open_chat(tokenizer, settings.model, "")
    rows = []
    for record in read_records(Path(settings.data)):
        row, _ = chat.row(record, settings.micro_tokens, "drop")
        labels = [token if given else -100 for token, given in zip(row.ids, row.mask, strict=True)]
        rows.append({"input_ids": row.ids.tolist(), "labels": [int(label) for label in labels]})
    return rows


def write_data(path: Path, count: int) -> str:
    """Worked solutions as a trace file; returns what they are."""
    from kit.data.readers import read
    from kit.data.records import write_records
    from kit.worked import stream

    found = shared_file("gsm8k/train.jsonl")
    records = read(str(found), limit=count) if found else islice(stream("train", 0), count)
    write_records(path, records)
    return "GSM8K train" if found else "made-up arithmetic"


def measure(settings: Settings, rounds: int, folder: Path) -> dict[str, list[Measured]]:
    """All sides in turn, in processes of their own."""
    sides = [OURS, *PEERS]
    found: dict[str, list[Measured]] = {side: [] for side in sides}
    given = folder / "settings.json"
    write_text(given, json.dumps(asdict(settings)))
    turns = [(number, side) for number in range(rounds) for side in rotated(sides, number)]
    for number, side in track(turns, "training", console=console):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            result, log = Path(scratch) / "result.json", Path(scratch) / "log"
            command = [sys.executable, "-m", "benchmarks.sft", "side", side, str(given), str(result)]
            with log.open("w") as file:
                code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, check=False).returncode
            if code:
                tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise ValueError(f"side {side} of round {number + 1} ended with code {code}:\n{tail}")
            measured = Measured(**json.loads(result.read_text(encoding="utf-8")))
        found[side].append(measured)
        console.print(
            f"{side}: {measured.speed:.1f} tokens/s, peak {measured.peak_bytes / 2**30:.2f} GiB, "
            f"loss {measured.loss:.3f}",
            highlight=False,
        )
    return found


def rotated(sides: Sequence[str], number: int) -> list[str]:
    """The order of a round: each side comes first in turn."""
    start = number % len(sides)
    return [*sides[start:], *sides[:start]]


def summary(found: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """Ratios of the rounds against the faster of TRL's ways, and the largest memory of each side."""
    speeds = {side: [one.speed for one in measured] for side, measured in found.items()}
    peer = max(PEERS, key=lambda side: statistics.median(speeds[side]))
    ratios = [ours / theirs for ours, theirs in zip(speeds[OURS], speeds[peer], strict=True)]
    return {
        "peer": peer,
        "ratios": ratios,
        "ratio": spread(ratios),
        "sides": {
            side: {
                "tokens_per_second": spread(speeds[side]),
                "peak_bytes": max(one.peak_bytes for one in measured),
                "tokens": sum(one.tokens for one in measured),
                "trained": sum(one.trained for one in measured),
                "loss": statistics.mean(one.loss for one in measured),
            }
            for side, measured in found.items()
        },
    }


def spread(values: Iterable[float]) -> dict[str, float]:
    """Least, median and greatest."""
    values = list(values)
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def state_bytes(model: Path) -> int:
    """Weights, gradients and AdamW's two moments in float32: what any trainer of this precision holds."""
    from kit.training.estimate.shape import shape_of

    return 16 * shape_of(str(model)).parameters


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Timed optimizer steps of a run.")] = 2,
    micro_tokens: Annotated[int, typer.Option(min=512, help="Tokens of a forward pass.")] = 1024,
    micros: Annotated[int, typer.Option(min=1, help="Forward passes of a step.")] = 4,
    model: Annotated[Path | None, typer.Option(help="Checkpoint. Default: the kit's small model.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Train with both and compare; exit code 1 where ours is slower or takes more memory."""
    if model is None:
        from kit.models import default_model

        model = default_model()
    with tempfile.TemporaryDirectory(prefix="aimo-sft-") as scratch:
        folder = Path(scratch)
        data = folder / "data.jsonl"
        what = write_data(data, micros * (steps + 1) * micro_tokens // 60)  # a row has 60 tokens or more
        batch_size = rows_of_a_step(data, model, micro_tokens, micros)
        settings = Settings(
            str(model.resolve()), str(data), micro_tokens, micros, batch_size, steps=steps, warm_up=1
        )
        found = measure(settings, rounds, folder)
    figures = summary(found)
    figures |= {
        "data": what,
        "rounds": rounds,
        "steps": steps,
        "micro_tokens": micro_tokens,
        "micros": micros,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "state_bytes": state_bytes(model),
    }
    _print(figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")
    ours, peer = figures["sides"][OURS], figures["sides"][figures["peer"]]
    if figures["ratio"]["median"] < MINIMUM or ours["peak_bytes"] > peer["peak_bytes"]:
        raise typer.Exit(1)


def rows_of_a_step(data: Path, model: Path, micro_tokens: int, micros: int) -> int:
    """As many rows as fill a step's micro-batches to 97 %: what first-fit-decreasing packing reaches."""
    from kit.training.model import load_tokenizer

    settings = Settings(str(model), str(data), micro_tokens, micros, 1, 1, 0)
    lengths = [len(row["input_ids"]) for row in token_rows(settings, load_tokenizer(model))]
    return max(1, round(0.97 * micro_tokens * micros / statistics.mean(lengths)))


def _print(figures: Mapping[str, Any]) -> None:
    table = Table(title="Fine-tuning: ours and TRL's SFTTrainer")
    for name in ("side", "tokens/s: least", "median", "greatest", "peak GiB", "loss"):
        table.add_column(name, justify="left" if name == "side" else "right")
    for side, values in figures["sides"].items():
        speeds = values["tokens_per_second"]
        table.add_row(
            side if side == OURS else f"TRL, {side}",
            *(f"{speeds[name]:.1f}" for name in ("min", "median", "max")),
            f"{values['peak_bytes'] / 2**30:.2f}",
            f"{values['loss']:.3f}",
        )
    console.print(table)
    ratio = figures["ratio"]
    console.print(
        f"[bold]ratio to {figures['peer']}: {ratio['median']:.2f}[/] ({ratio['min']:.2f} to "
        f"{ratio['max']:.2f}; aim {AIM}); weights, gradients and moments: "
        f"{figures['state_bytes'] / 2**30:.2f} GiB",
        highlight=False,
    )


def serve_side(side: str, given: Path, result: Path) -> None:
    """Train as one side and write what was measured."""
    settings = Settings(**json.loads(given.read_text(encoding="utf-8")))
    folder = result.parent / "run"
    measured = train_ours(settings, folder) if side == OURS else train_trl(settings, side, folder)
    write_text(result, json.dumps(asdict(measured)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        serve_side(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        run(app)
