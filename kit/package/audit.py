"""What a bundle may hold, asked of the bundle alone: a manifest that fits its files proves no more than that.

Whoever builds carelessly, or means harm, writes a consistent manifest. So code outside its place, pickles, a
config of other weights, a missing tokenizer, settings that do not load and wheels that do not belong together
(`kit.package.wheel_audit`) are looked for here. Nothing is installed, imported or unpacked.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kit.package.targets import Target
from kit.package.tensors import check_config, read_header
from kit.package.wheel_audit import WheelFault, audit_wheels
from submission.bundle import Bundle, Entry
from submission.checkpoint import PICKLES, Checkpoint, inspect, read_json
from submission.settings import ContestSettings
from submission.setup import PRM_FOLDER

SHOWN = 5
"""Faults that one message names."""
_CODE = frozenset({".py", ".pyc", ".pyo", ".pyd", ".so", ".pth", ".egg", ".egg-link", ".sh"})
_MODELS = ("model", PRM_FOLDER)
# The pickle protocols 2 to 5, and the archive that torch keeps pickles in.
_PICKLED = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a file of the bundle, and how to mend it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path} {self.message}"


def audit(bundle: Bundle) -> list[Fault]:
    """Everything that is wrong with what a bundle holds, sorted by path; its files are as its manifest says.

    Takes a second or two, and memory for one header of weights and one list of a wheel's files.
    """
    faults = [fault for entry in bundle.manifest.entries for fault in _entry_faults(bundle.root, entry)]
    for folder in _MODELS:
        if any(entry.path.startswith(f"{folder}/") for entry in bundle.manifest.entries) or folder == "model":
            faults += _model_faults(bundle.root, folder)
    faults += _refusals("contest.toml", lambda: ContestSettings.load(bundle.settings))
    faults += _refusals("manifest.json", lambda: Target.parse(str(bundle.manifest.data.get("target"))))
    if bundle.manifest.data.get("wheels") is True and not any(
        fault.path == "manifest.json" for fault in faults
    ):
        faults += _shown(audit_wheels(bundle))
    return sorted(set(faults), key=lambda fault: (fault.path, fault.message))


def check_contents(bundle: Bundle) -> str:
    """Say what was looked at; ValueError naming the first faults where there are some."""
    faults = audit(bundle)
    if faults:
        more = f" (and {len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
        raise ValueError(f"bundle {bundle.root}: {'; '.join(map(str, faults[:SHOWN]))}{more}")
    return "code, weights, settings and wheels belong together"


def check_own_config(checkpoint: Checkpoint) -> None:
    """Refuse a config of another model's weights (ValueError), from the headers alone."""
    folder = checkpoint.folder
    weights = [folder / file for file in checkpoint.files if file.endswith(".safetensors")]
    tensors = [tensor for path in weights for tensor in read_header(path).tensors]
    check_config(folder / "config.json", read_json(folder / "config.json"), tensors)


def _shown(faults: Iterable[WheelFault]) -> list[Fault]:
    return [Fault(fault.path, fault.message) for fault in faults]


def _refusals(path: str, check: Callable[[], object]) -> list[Fault]:
    try:
        check()
    except ValueError as error:
        return [Fault(path, f"is not usable: {error}")]
    return []


def _entry_faults(root: Path, entry: Entry) -> list[Fault]:
    path = PurePosixPath(entry.path)
    place, suffix = path.parts[0], path.suffix.lower()
    if place == "wheels":
        return []  # what may lie there is asked of the wheels
    if place == "submission" and suffix in _CODE - {".py"}:
        return [
            Fault(entry.path, "is compiled code or a start-up hook, which no build puts there; remove it")
        ]
    if place != "submission" and suffix in _CODE:
        return [
            Fault(
                entry.path,
                "is code outside submission/, and the bundle's folder is on the module path: Python could "
                "run it at every start; remove it and build again",
            )
        ]
    if suffix in PICKLES or (suffix not in {".safetensors", ".py"} and _looks_pickled(root / entry.path)):
        return [
            Fault(
                entry.path,
                "is a pickle, which can run code when it is loaded; convert it where you trust it "
                "(save_pretrained with safe_serialization=True) and build again",
            )
        ]
    return []


def _looks_pickled(path: Path) -> bool:
    with path.open("rb") as file:
        return _PICKLED.match(file.read(4)) is not None


def _model_faults(root: Path, name: str) -> list[Fault]:
    folder = root / name
    try:
        found = inspect(folder, prm=name == PRM_FOLDER)
        check_own_config(found)
    except ValueError as error:
        return [Fault(f"{name}/", f"cannot be served: {error}")]
    return [
        Fault(note.path, f"has no place in a bundle ({note.reason}); remove it and build again")
        for note in found.left_out
    ]
