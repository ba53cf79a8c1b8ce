"""What is to be quantized and how, decided by everything that can be checked before work begins."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.package.quantize.environment import PINS
from kit.package.quantize.layers import check_base, file_digests, linear_layers, read_tensors
from kit.package.quantize.measure import Row
from kit.package.quantize.schemes import Scheme, group_size
from kit.package.quantize.traces import Drawn, Wanted, check_tokens, draw, prm_rows, solver_rows
from submission.checkpoint import Checkpoint, inspect
from submission.engines.base import EngineError
from submission.engines.tokenizer import context_length
from submission.prm.heads import read_prm

FORMAT = 1
"""Of the report and of how a result is made: a new number makes all results anew."""


@dataclass(frozen=True, slots=True)
class Job:
    """A model, a scheme, and the traces that it is calibrated on and judged by.

    Args:
        prm: the model is a process reward model.
        group: weights that share a scale; None for one scale a row.
        layers: modules to quantize.
        rows: token ids of the calibration's traces.
        judged: a solver's held-out traces.
        traces: name and SHA-256 of each trace file.
    """

    base: Checkpoint
    scheme: Scheme
    prm: bool
    wanted: Wanted
    drawn: Drawn
    group: int | None
    layers: int
    rows: list[list[int]]
    judged: list[Row]
    traces: tuple[tuple[str, str], ...]

    def key(self, digests: Mapping[str, str]) -> str:
        """Digest of everything that decides the result; `digests` are those of the model's files."""
        wanted = {**asdict(self.wanted), "files": sorted(digest for _, digest in self.traces)}
        pins = PINS.read_text(encoding="utf-8")
        made_from = [FORMAT, asdict(self.scheme), self.prm, wanted, dict(digests), pins]
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def decide(model: Path, scheme: Scheme, wanted: Wanted, *, prm: bool) -> Job:
    """Check a wish; nothing heavy is loaded and nothing written.

    Raises:
        ValueError: the model cannot be quantized so, or the traces are too few.
    """
    base = inspect(model, prm=prm)
    check_base(model)
    if prm and scheme.calibrated and read_prm(model).head == "process_reward":
        raise ValueError(
            f"PRM {model}: no library has a class for a Qwen2ForProcessRewardModel to calibrate; choose fp8, "
            "int8-rtn or w4a16-rtn, which need none"
        )
    layers = linear_layers(read_tensors(model))
    widths = [tensor.shape[-1] for tensor in layers.values()]
    group = group_size(scheme, widths)
    drawn = draw(wanted, calibrated=scheme.calibrated, wrong=prm)
    length = min(wanted.max_length, _context(model))
    rows: list[list[int]] = []
    if scheme.calibrated and prm:
        rows = prm_rows(model, drawn.calibration, length)
    elif scheme.calibrated:
        rows = [ids for ids, _ in solver_rows(model, drawn.calibration, length)]
    if scheme.calibrated:
        check_tokens(rows, max(widths))
    judged = [] if prm else solver_rows(model, drawn.held_out, length)
    traces = tuple((file.name, file_digests(file.parent, (file.name,))[file.name]) for file in wanted.files)
    return Job(base, scheme, prm, wanted, drawn, group, len(layers), rows, judged, traces)


def _context(model: Path) -> int:
    try:
        return context_length(model)
    except EngineError as error:
        raise ValueError(f"model {model}: {error}") from None
