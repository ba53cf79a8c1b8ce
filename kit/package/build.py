"""Builds a bundle: checks first, then one pass over the files into a new folder, then a swap by rename."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.package.contents import Plan
from kit.package.copying import Item, check_space, write_all
from kit.package.notebook import json_bytes
from kit.package.proof.sbom import SBOM, sbom
from kit.package.swap import check_output, replacing
from submission.bundle import MANIFEST, Progress


@dataclass(frozen=True, slots=True)
class Built:
    """A finished bundle: its folder, its manifest's SHA-256, and bytes by part (`model`, `wheels`, ...)."""

    folder: Path
    digest: str
    sizes: Mapping[str, int]


def build(plan: Plan, out: Path, progress: Progress = lambda _: None) -> Built:
    """Write the planned bundle to `out`; an older bundle there is replaced in one step or left as it was.

    Raises:
        ValueError: `out` holds something else, the disk is or gets full, or a source changed meanwhile.
    """
    out = Path(out).absolute()
    try:
        return _build(plan, out, progress)
    except OSError as error:
        raise ValueError(
            f"bundle {out} cannot be written: {error}; an older one there is untouched"
        ) from error


def _build(plan: Plan, out: Path, progress: Progress) -> Built:
    check_output(out)
    _check_apart(plan, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    check_space(out.parent, plan.items)
    with replacing(out) as folder:
        entries = write_all(plan.items, folder, progress)
        bill = sbom(plan.manifest, plan.wheels, entries)
        entries += write_all([Item(SBOM, bill, len(bill))], folder, lambda _: None)
        entries.sort(key=lambda entry: entry.path)
        content = json_bytes({**plan.manifest, "files": [asdict(entry) for entry in entries]})
        write_all([Item(MANIFEST, content, len(content))], folder, lambda _: None)
    sizes: dict[str, int] = {}
    for entry in entries:
        part = entry.path.split("/", maxsplit=1)[0] if "/" in entry.path else "other"
        sizes[part] = sizes.get(part, 0) + entry.size
    return Built(out, hashlib.sha256(content).hexdigest(), sizes)


def _check_apart(plan: Plan, out: Path) -> None:
    """The folder that is replaced must not hold what is copied."""
    for item in plan.items:
        if isinstance(item.source, Path) and item.source.resolve().is_relative_to(out.resolve()):
            raise ValueError(
                f"--out {out} holds {item.source}, which the bundle is made from; name another --out"
            )
