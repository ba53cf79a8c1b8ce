"""What `python -m kit.package` does to models before they go into a bundle: merging, quantizing."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from kit.package.quantize import load
from kit.package.quantize.adapter import CONFIG, WEIGHTS, check_adapter, merge_adapter
from kit.package.quantize.environment import ROOT, Say
from kit.package.quantize.job import decide
from kit.package.quantize.judging import words
from kit.package.quantize.layers import file_digests
from kit.package.quantize.run import CACHE, MAX_LOSS, quantize
from kit.package.quantize.schemes import Scheme, find_scheme
from kit.package.quantize.store import MODEL, obtain
from kit.package.quantize.traces import Wanted
from submission.checkpoint import inspect

MERGED = ROOT / "build" / "merged"
MERGE = "merge.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to become of a bundle's models; the fields are options of `python -m kit.package`."""

    quantize: str = "none"
    quantize_prm: str = "none"
    traces: tuple[Path, ...] = ()
    calibration_count: int = 256
    max_loss: float = MAX_LOSS
    adapter: Path | None = None
    cache: Path = CACHE
    merged: Path = MERGED


@dataclass(frozen=True, slots=True)
class Prepared:
    """Folders of the models as they go along, and what was done to them, by model."""

    solver: Path
    prm: Path | None
    record: Mapping[str, Any] = field(default_factory=dict)


def prepare(wish: Wish, solver: Path, prm: Path | None, say: Say, *, dry_run: bool = False) -> Prepared:
    """Merge and quantize as wished; without a wish nothing is read or loaded.

    Args:
        solver, prm: checkpoint folders, inspected already.
        dry_run: check what can be checked without making anything; the folders come back as they are.

    Raises:
        ValueError: a wish cannot be fulfilled, before anything is made where that can be known.
    """
    _check_wish(wish, prm)
    names = wish.quantize, wish.quantize_prm
    # torch takes seconds to import, and one scheme alone asks.
    gpu = "awq" in names and load.has_gpu()
    schemes = [find_scheme(name, gpu=gpu) for name in names]
    wanted = Wanted(wish.traces, calibration=wish.calibration_count)
    if wish.adapter is not None:
        check_adapter(wish.adapter, solver)
    # Everything that can be refused is refused before the first model is touched.
    if schemes[0] is not None:
        decide(solver, schemes[0], wanted, prm=False)
    if schemes[1] is not None and prm is not None:
        decide(prm, schemes[1], wanted, prm=True)
    if dry_run:
        return Prepared(solver, prm)
    record: dict[str, Any] = {}
    if wish.adapter is not None:
        solver, record["adapter"] = merged_model(solver, wish.adapter, say, wish.merged)
    if schemes[0] is not None:
        solver, record["solver"] = _quantized(solver, schemes[0], wanted, wish, say, prm=False)
    if schemes[1] is not None and prm is not None:
        prm, record["prm"] = _quantized(prm, schemes[1], wanted, wish, say, prm=True)
    return Prepared(solver, prm, record)


def _check_wish(wish: Wish, prm: Path | None) -> None:
    if not wish.max_loss >= 0:
        raise ValueError(f"--max-loss {wish.max_loss:g} must be at least 0: 0.01 allows 1 %")
    if wish.quantize_prm != "none" and prm is None:
        raise ValueError("--quantize-prm is given without --prm: name the process reward model")
    if wish.traces and (wish.quantize, wish.quantize_prm) == ("none", "none"):
        raise ValueError(
            "--calibration-traces are given and nothing is quantized: add --quantize fp8 or int8"
        )


def _quantized(
    model: Path, scheme: Scheme, wanted: Wanted, wish: Wish, say: Say, *, prm: bool
) -> tuple[Path, dict[str, Any]]:
    made = quantize(model, scheme, wanted, say=say, max_loss=wish.max_loss, prm=prm, cache=wish.cache)
    return made.folder, dict(made.report)


def merged_model(
    base: Path, adapter: Path, say: Say, cache: Path = MERGED, *, prm: bool = False
) -> tuple[Path, dict[str, Any]]:
    """A copy of the base with the adapter merged into it, made once, and the record of what went into it."""
    check_adapter(adapter, base)
    checkpoint = inspect(base, prm=prm)
    parts = {
        "base": {"name": checkpoint.name, "files": file_digests(base, checkpoint.files)},
        "adapter": {"name": adapter.resolve().name, "files": file_digests(adapter, (CONFIG, WEIGHTS))},
    }
    key = hashlib.sha256(json.dumps([1, prm, parts], sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"{base.resolve().name}-{adapter.resolve().name}-{key}"

    def make(work: Path) -> dict[str, Any]:
        say(f"merging {adapter} into a copy of {base}")
        merge_adapter(base, adapter, work / MODEL, prm=prm)
        return parts

    return folder, obtain(folder, MERGE, 1.1 * checkpoint.size, say, make)


def table(record: Mapping[str, Any]) -> Table:
    """The record of merged and quantized models as a table."""
    models = [name for name in ("solver", "prm") if name in record]
    shown = Table("", *models, title="merged and quantized")
    if "adapter" in record:
        # An adapter is the solver's, which comes first.
        shown = Table("", *(models or ["solver"]), title="merged and quantized")
        shown.add_row("merged", Text(f"adapter {record['adapter']['adapter']['name']}"))
    reports = [record[name] for name in models]
    for title, says in _ROWS:
        if reports:
            shown.add_row(title, *(Text(says(report)) for report in reports))
    return shown


def _scheme(report: Mapping[str, Any]) -> str:
    return f"{report['scheme']} ({report['preset']}, {report['method']})"


def _size(report: Mapping[str, Any]) -> str:
    size = report["size"]
    return f"{size['after'] / 1e6:,.1f} MB, {size['ratio']:.2f} of what it was"


def _loss(report: Mapping[str, Any]) -> str:
    return f"{report['figures']['loss']:.3g} (at most {report['max_loss']:g})"


def _figures(report: Mapping[str, Any]) -> str:
    return words(report["figures"])


def _calibration(report: Mapping[str, Any]) -> str:
    used = report["calibration"]
    files = ", ".join(file["name"] for file in report["trace_files"])
    if used is None:
        return f"none needed (judged by {files})"
    return f"{used['traces']} traces, {used['tokens']:,} tokens, of {files}"


def _layers(report: Mapping[str, Any]) -> str:
    layers = report["layers"]
    tied = ", head tied to the embedding" if layers["tied"] else ""
    return f"{layers['quantized']} quantized; as they were: {', '.join(layers['left_out']) or 'none'}{tied}"


def _loaded(report: Mapping[str, Any]) -> str:
    found = report["load_check"]
    if found["why"]:
        return f"{found['engine']} on {found['where']} only: {found['why']}"
    dtype = "" if found["dtype"] == "auto" else f' with engine.dtype = "{found["dtype"]}"'
    return f"{found['engine']} on {found['where']}{dtype}, {found['difference']:.2g} from transformers"


_ROWS = (
    ("scheme", _scheme),
    ("size", _size),
    ("held-out traces", _figures),
    ("loss", _loss),
    ("calibration", _calibration),
    ("layers", _layers),
    ("load check", _loaded),
)
