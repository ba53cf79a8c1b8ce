"""From a checkpoint to a quantized one that was judged: cheap checks first, and the result all or nothing.

Finished results are kept under a digest of all that they were made from, so a second build takes the same
bytes. The original is only read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.package.quantize.environment import ROOT, Say, quantize_environment
from kit.package.quantize.job import decide
from kit.package.quantize.judging import check_loss, judge
from kit.package.quantize.layers import file_digests
from kit.package.quantize.schemes import Scheme
from kit.package.quantize.store import MODEL, obtain
from kit.package.quantize.traces import Wanted
from kit.package.quantize.work import collect, run_worker
from submission.checkpoint import Checkpoint

CACHE = ROOT / "build" / "quantized"
REPORT = "quantization.json"
MAX_LOSS = 0.01
"""Seen (benchmarks/quantize.py): a perplexity grown by 0.015 went with 9 points of a small model's answers
lost, one grown by 0.001 with none."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A finished quantized checkpoint, and the report of how it was made and judged."""

    folder: Path
    report: Mapping[str, Any]


def quantize(
    model: Path,
    scheme: Scheme,
    wanted: Wanted,
    *,
    say: Say,
    max_loss: float = MAX_LOSS,
    prm: bool = False,
    cache: Path = CACHE,
    environment: Path | None = None,
) -> Quantized:
    """Quantize a checkpoint, judge it on held-out traces, and load it once more in the engine.

    Args:
        model: the checkpoint's folder; nothing is written there.
        say: is given lines of progress.
        max_loss: growth of the perplexity (of a process reward model, mean difference of a step's score)
            above which there is no result.
        prm: it is a process reward model.
        cache: finished results are kept there.
        environment: the quantizer's Python; made on demand where it is None.

    Raises:
        ValueError: the model cannot be quantized so, the traces are too few, the loss is above `max_loss`, or
            the result is not sound; nothing is left half made.
    """
    job = decide(model, scheme, wanted, prm=prm)
    digests = file_digests(model, job.base.files)
    folder = cache / f"{model.resolve().name}-{scheme.name}-{job.key(digests)[:12]}"

    def make(work: Path) -> dict[str, Any]:
        before = _stat(job.base)
        worked = run_worker(job, work, environment or quantize_environment(say), say)
        collect(job, work / "raw", work / MODEL)
        report = judge(job, work / MODEL, worked, say, max_loss)
        if _stat(job.base) != before:
            raise ValueError(f"model {model} was changed while it was quantized: start again")
        return {**report, "base": {"name": job.base.name, "files": digests}}

    report = obtain(folder, REPORT, 1.1 * job.base.size, say, make)
    check_loss(report["figures"]["loss"], max_loss, report["figures"], scheme)
    return Quantized(folder, {**report, "max_loss": max_loss})


def _stat(checkpoint: Checkpoint) -> list[tuple[int, int]]:
    stats = [(checkpoint.folder / name).stat() for name in checkpoint.files]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]
