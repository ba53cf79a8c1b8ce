"""What a page tells of a bundle: its size and parts, what quantizing cost, and whether it was rehearsed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submission.bundle import Bundle, Entry, quick_check

MODELS = {"solver": "model", "prm": "prm"}
"""Folders of the bundle's models by what the manifest calls their quantizing."""


@dataclass(frozen=True)
class Weights:
    """A model of the bundle.

    Args:
        name: "solver" or "prm".
        size: bytes of its folder in the bundle.
        before: bytes of the model before it was quantized; None where it was not.
        scheme: how it was quantized.
        loss: what that cost, in words.
    """

    name: str
    size: int
    before: int | None
    scheme: str
    loss: str


@dataclass(frozen=True)
class Rehearsal:
    """What came of a rehearsal; `trouble` says why its record does not speak for this bundle."""

    install_seconds: float | None
    served_seconds: float | None
    ready_seconds: float | None
    memory_mib: float | None
    network: str
    steps: tuple[tuple[str, str], ...]
    trouble: str


@dataclass(frozen=True)
class BundleFacts:
    """All that is told of a bundle; sizes in bytes."""

    name: str
    digest: str
    target: str
    size: int
    files: int
    models: tuple[Weights, ...]
    wheels: int
    wheels_size: int
    rehearsal: Rehearsal | None

    @property
    def models_size(self) -> int:
        """Bytes of all models."""
        return sum(one.size for one in self.models)

    @property
    def before(self) -> int:
        """Bytes of all models before they were quantized."""
        return sum(one.size if one.before is None else one.before for one in self.models)


def read_bundle(folder: Path) -> BundleFacts:
    """Read a bundle's manifest and the record of its rehearsal; contents are not hashed.

    Raises:
        ValueError: the folder holds no bundle, or other files than its manifest says.
    """
    opened = Bundle.open(folder)
    wrong = quick_check(folder)
    if wrong:
        raise ValueError(f"bundle {folder} is not what was built: {wrong[0].path} {wrong[0].message}")
    entries, data = opened.manifest.entries, opened.manifest.data
    reports = data.get("quantization") or {}
    wheels = [one for one in entries if one.path.startswith("wheels/")]
    try:
        models = tuple(
            _weights(name, _below(entries, part), reports.get(name))
            for name, part in MODELS.items()
            if _below(entries, part)
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"bundle {folder}: its report of quantizing cannot be read: {error!r}") from None
    return BundleFacts(
        name=folder.resolve().name,
        digest=opened.manifest.digest,
        target=str(data.get("target", "")),
        size=_size(entries),
        files=len(entries),
        models=models,
        wheels=len({_whole(one.path) for one in wheels}),
        wheels_size=_size(wheels),
        rehearsal=_rehearsal(folder, opened.manifest.digest),
    )


def _below(entries: Sequence[Entry], part: str) -> list[Entry]:
    return [one for one in entries if one.path.startswith(f"{part}/")]


def _size(entries: Sequence[Entry]) -> int:
    return sum(one.size for one in entries)


def _whole(path: str) -> str:
    """A wheel's name without the number of its part (`kit.package --split-size`)."""
    stem, _, number = path.rpartition(".part-")
    return stem if number.isdigit() else path


def _weights(name: str, entries: Sequence[Entry], report: Mapping[str, Any] | None) -> Weights:
    if report is None:
        return Weights(name, _size(entries), None, "", "")
    return Weights(
        name, _size(entries), int(report["size"]["before"]), str(report["scheme"]), lost(report["figures"])
    )


def lost(figures: Mapping[str, Any]) -> str:
    """What quantizing cost on held-out traces, from the figures of its report."""
    if "perplexity_before" in figures:
        before, after = float(figures["perplexity_before"]), float(figures["perplexity_after"])
        same = float(figures["agreement"])
        return f"perplexity {before:.4g} to {after:.4g}, the same next token at {100 * same:.1f} %"
    mean, same = float(figures["mean_difference"]), float(figures["same_side"])
    return f"a step's score moves by {mean:.2g} on average, on the same side of 0.5 at {100 * same:.1f} %"


def _rehearsal(folder: Path, digest: str) -> Rehearsal | None:
    """From the record beside the bundle; None where there is none."""
    resolved = folder.resolve()
    path = resolved.with_name(resolved.name + ".rehearsal.json")
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        return Rehearsal(
            install_seconds=_number(record, "install_seconds"),
            served_seconds=_number(record, "served_seconds"),
            ready_seconds=_number(record, "ready_seconds"),
            memory_mib=_number(record, "memory_mib"),
            network=str(record.get("network", "")),
            steps=tuple((str(one["name"]), str(one["outcome"])) for one in record.get("steps", ())),
            trouble="" if record.get("manifest") == digest else "the record is of another build",
        )
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no record of a rehearsal: {error!r}") from None


def _number(record: Mapping[str, Any], key: str) -> float | None:
    return None if record.get(key) is None else float(record[key])
