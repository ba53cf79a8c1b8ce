"""What goes into a bundle, decided before anything is written."""

import json
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import submission
from kit.package import notebook
from kit.package.copying import Item
from kit.package.interpreter import why_not_here
from kit.package.proof.provenance import Provenance
from kit.package.targets import Target
from kit.package.wheels import ROOT, Wheel, Wheelhouse
from submission.bundle import FORMAT, VERSION
from submission.checkpoint import Checkpoint, LeftOut
from submission.recipes import Recipe
from submission.settings import ContestSettings
from submission.setup import CALIBRATION, PRM_FOLDER

DRAFT_FOLDER = "draft"
NO_WHEELS = "# This bundle was built with --no-wheels: it cannot be installed.\n"


@dataclass(frozen=True, slots=True)
class Plan:
    """All files of a bundle to be, sorted by path, and its manifest without the list of files."""

    items: tuple[Item, ...]
    manifest: Mapping[str, Any]
    wheels: tuple[Wheel, ...] = ()
    """For the bill of materials."""

    @property
    def size(self) -> int:
        """Bytes of all items."""
        return sum(item.size for item in self.items)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the manifest says of where the models come from, and of the rules that were checked.

    `rules` is what `kit.package.proof.rules.enforce` returned; None where none were checked.
    """

    solver: Provenance = field(default_factory=Provenance)
    prm: Provenance = field(default_factory=Provenance)
    draft: Provenance = field(default_factory=Provenance)
    rules: Mapping[str, Any] | None = None


def plan(
    checkpoint: Checkpoint,
    settings: ContestSettings,
    target: Target,
    house: Wheelhouse | None,
    *,
    prm: Checkpoint | None = None,
    draft: Checkpoint | None = None,
    quantization: Mapping[str, Any] | None = None,
    calibration: Path | None = None,
    kaggle_user: str | None = None,
    model_note: str | None = None,
    proof: Proof | None = None,
    root: Path = ROOT,
) -> Plan:
    """Decide every file of a bundle; the same input gives the same plan, byte for byte.

    Without a wheelhouse the bundle has no wheels and says so. `model_note` is shown in every run's report.

    Args:
        prm: a process reward model (`submission.checkpoint.inspect` with `prm`).
        draft: a draft model of the solver's vocabulary (`kit.package.quantize.draft`).
        quantization: how the models were merged and quantized (`kit.package.quantize.prepare`).
        calibration: of the vote, by `kit.calibrate`.

    Raises:
        ValueError: the Kaggle user is not a name, or the settings cannot be written as TOML.
    """
    user, proof = notebook.check_user(kaggle_user), proof or Proof()
    wheels, wheel_notes = (house.wheels, house.left_out) if house else ((), ())
    texts = {
        "contest.toml": settings_toml(settings).encode("utf-8"),
        "requirements.txt": (house.requirements() if house else NO_WHEELS).encode("utf-8"),
        f"notebook/{notebook.NOTEBOOK}": notebook.notebook(),
        "notebook/kernel-metadata.json": notebook.kernel_metadata(
            user, settings.rules.name, gpu=target.engine == "cuda"
        ),
        "dataset-metadata.json": notebook.dataset_metadata(user),
        "licenses/wheels.json": notebook.json_bytes(
            [{"name": wheel.name, "version": wheel.version, "license": wheel.license} for wheel in wheels]
        ),
    }
    files = _model_files({"model": checkpoint, PRM_FOLDER: prm, DRAFT_FOLDER: draft})
    if quantization:
        texts["quantization.json"] = notebook.json_bytes(quantization)
    if calibration is not None:
        files[CALIBRATION] = calibration
    files |= {f"submission/{name}": path for name, path in _source_files()}
    if (root / "LICENSE").is_file():
        files["licenses/LICENSE"] = root / "LICENSE"
    items = [Item(path, data, len(data)) for path, data in texts.items()]
    items += [Item(path, source, source.stat().st_size) for path, source in files.items()]
    if house:
        items += [
            Item(f"wheels/{wheel.file}", house.folder / wheel.file, wheel.size, wheel.sha256)
            for wheel in wheels
        ]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "project": {"name": "aimo-submission-kit", "version": submission.__version__},
        "git": git_state(root),
        "target": target.name,
        "not_rehearsed_here": why_not_here(target),
        "wheels": house is not None,
        "settings": settings.rules.name,
        "model": {**_about(checkpoint, proof.solver), "note": model_note},
        "prm": None if prm is None else _about(prm, proof.prm),
        "draft": None if draft is None else _about(draft, proof.draft),
        "quantization": quantization or None,
        "rules": proof.rules,
        "left_out": _notes(
            [*checkpoint.left_out, *(prm.left_out if prm else ()), *_of_draft(draft), *wheel_notes]
        ),
    }
    return Plan(tuple(sorted(items, key=lambda item: item.path)), manifest, tuple(wheels))


def _model_files(checkpoints: Mapping[str, Checkpoint | None]) -> dict[str, Path]:
    """Sources by path: each checkpoint in the folder of its name, and its licences."""
    files: dict[str, Path] = {}
    for folder, checkpoint in checkpoints.items():
        if checkpoint is None:
            continue
        files |= {f"{folder}/{name}": checkpoint.folder / name for name in checkpoint.files}
        licences = checkpoint.license_files
        files |= {f"licenses/{folder}/{name}": checkpoint.folder / name for name in licences}
    return files


def _of_draft(draft: Checkpoint | None) -> list[LeftOut]:
    """What is left out of a draft model, which is inspected as any model that generates."""
    notes = draft.left_out if draft else ()
    return [LeftOut(note.path.replace("model/", f"{DRAFT_FOLDER}/", 1), note.reason) for note in notes]


def _about(checkpoint: Checkpoint, origin: Provenance) -> dict[str, Any]:
    return {
        "name": checkpoint.name,
        "architecture": checkpoint.architecture,
        "model_type": checkpoint.model_type,
        "license": checkpoint.license,
        "released": origin.released,
        "provenance": origin.record(),
    }


def _notes(left_out: Iterable[LeftOut]) -> list[dict[str, str]]:
    return [asdict(note) for note in sorted(left_out, key=lambda note: note.path)]


def _source_files() -> list[tuple[str, Path]]:
    """The shipped package's files with their paths in it; caches and hidden files are no source."""
    folder = Path(submission.__file__).parent
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part == "__pycache__" for part in parts) or path.suffix == ".pyc":
            continue
        if path.is_symlink():
            raise ValueError(f"{path} is a symbolic link; the shipped package must hold plain files only")
        if path.is_file():
            found.append((path.relative_to(folder).as_posix(), path))
    return found


def settings_toml(settings: Recipe) -> str:
    """The settings as TOML text that reads back to the same settings.

    Raises:
        ValueError: a value cannot be written: TOML has no null, so `None` only works where it is the default.
    """
    lines: list[str] = []
    for section, values in settings.model_dump(mode="json").items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in values.items() if value is not None]
        lines.append("")
    text = "\n".join(lines)
    if type(settings).parse(tomllib.loads(text), "contest.toml") != settings:
        raise ValueError("these settings cannot be written as TOML, which has no null; give every value")
    return text


def _toml_value(value: object) -> str:
    if isinstance(value, str):
        # JSON's string syntax is TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        pairs = (f"{key} = {_toml_value(item)}" for key, item in value.items() if item is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    raise ValueError(f"{value!r} of type {type(value).__name__} has no place in contest.toml")


def git_state(root: Path) -> dict[str, Any] | None:
    """Revision of the checkout at `root` and whether files differ from it; None where it is no checkout."""
    changed = changed_files(root)
    revision = None if changed is None else _git(root, "rev-parse", "HEAD")
    return {"revision": revision, "dirty": bool(changed)} if revision else None


def changed_files(root: Path) -> list[str] | None:
    """Files of the checkout at `root` that differ from its revision; None where it is no checkout."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()).resolve() != root.resolve():
        return None
    # Should git not tell, nobody knows that the files are those of the revision.
    status = _git(root, "status", "--porcelain")
    return ["(unknown)"] if status is None else [line[3:] for line in status.splitlines()]


def check_clean(root: Path = ROOT) -> None:
    """Refuse to build from files that no revision holds.

    Raises:
        ValueError: files of the checkout at `root` differ from its revision; the message names some.
    """
    changed = changed_files(root)
    if changed:
        raise ValueError(
            f"the checkout has {len(changed)} changed files ({', '.join(changed[:3])}), so no revision would "
            "tell what was built: commit them, or build with --allow-dirty, which the manifest then says"
        )


def _git(root: Path, *arguments: str) -> str | None:
    """What git says about a checkout; None where it fails or is not there."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
