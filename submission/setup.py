"""From what a user names (a bundle, or model folders in the environment) to what a contest needs."""

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from submission.agents.team import load_team
from submission.bundle import Bundle, quick_check
from submission.checkpoint import inspect
from submission.prm.heads import check_prm
from submission.selection.calibration import load_calibration
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestSettings

MODEL_VARIABLE = "MATH_MODEL_PATH"
PRM_VARIABLE = "PRM_MODEL_PATH"
CALIBRATION_VARIABLE = "AIMO_CALIBRATION"
PRM_FOLDER, CALIBRATION = "prm", "calibration.json"
"""In a bundle."""
TIES = Rule(method="prm", blend=1e-3)
"""Scores decide between answers of equally many votes, and nothing else: uncalibrated, they have been seen to
lose against the plain vote."""


@dataclass(frozen=True)
class Setup:
    """A contest's settings and model.

    Args:
        settings: everything tunable, overrides applied.
        model: the checkpoint's folder, None for recorded samples.
        prm: the process reward model's folder, if there is one.
        rule: how answers are chosen: what a calibration has shown to help; without a calibration the plain
            vote, whose ties a process reward model breaks.
        name: how the report calls it.
        digest: fingerprint of bundle and settings: a journal of another fingerprint is not resumed.
        notes: what a reader of the report has to know.
    """

    settings: ContestSettings
    model: Path | None
    prm: Path | None
    name: str
    digest: str
    notes: tuple[str, ...] = ()
    rule: Rule = PLAIN


def resolve(
    bundle: Path | None, overrides: Sequence[str] = (), *, team: str | None = None, strict: bool = True
) -> Setup:
    """Check the inputs before anything expensive starts.

    Args:
        bundle: a bundle's folder; None takes `MATH_MODEL_PATH` and default settings.
        overrides: `section.key=value`, over the bundle's own `contest.toml`.
        team: a shipped team's name or a team's file, over the settings' own.
        strict: refuse a damaged bundle or PRM; else note it and go on, as the run that counts has to.

    Raises:
        ValueError: no model is named, the bundle is damaged, or a setting is wrong.
    """
    prm, prm_notes = _prm(bundle, strict=strict)
    rule, rule_notes = _rule(bundle, prm, strict=strict)
    notes_so_far = (*prm_notes, *rule_notes)
    if bundle is None:
        settings, notes = _checked(_with_team(ContestSettings.load(None, overrides), team), prm)
        model = _folder_from(MODEL_VARIABLE)
        if model is not None:
            # Missing, truncated, pickled or unknown: better now than after a minute of loading.
            inspect(model)
        if model is None and settings.engine.kind != "replay":
            raise ValueError(f"no model: give --bundle DIR, or a model's folder in {MODEL_VARIABLE}")
        name = model.name if model else "recorded samples"
        digest = _digest(settings, f"{model}\n{rule}", model, prm)
        return Setup(settings, model, prm, name, digest, (*notes_so_far, *notes), rule)
    opened = Bundle.open(bundle)
    faults = quick_check(bundle)
    shown = "; ".join(f"{fault.path} {fault.message}" for fault in faults[:5])
    # A stray file harms nobody: what is loaded is loaded by name.
    if strict and any(fault.kind != "added" for fault in faults):
        raise ValueError(f"bundle {bundle} is not what was built ({len(faults)} faults): {shown}")
    settings, notes = _checked(_with_team(ContestSettings.load(opened.settings, overrides), team), prm)
    if faults:
        notes = (*notes, f"The bundle is not what was built ({len(faults)} faults): {shown}")
    about = opened.manifest.data.get("model")
    about = about if isinstance(about, dict) else {}
    name = str(about.get("name") or bundle.name)
    if about.get("note"):
        notes = (*notes, str(about["note"]))
    digest = _digest(settings, opened.manifest.digest, prm)
    return Setup(settings, opened.model.resolve(), prm, name, digest, (*notes_so_far, *notes), rule)


def _rule(bundle: Path | None, prm: Path | None, *, strict: bool) -> tuple[Rule, tuple[str, ...]]:
    """What the calibration says, from the environment or the bundle; one that is damaged costs its gain."""
    named = os.environ.get(CALIBRATION_VARIABLE)
    path = Path(named) if named else bundle / CALIBRATION if bundle is not None else None
    default = TIES if prm is not None else PLAIN
    if path is None or not (named or path.is_file()):
        return default, ()
    try:
        found = load_calibration(path)
    except ValueError as error:
        if strict:
            raise
        return default, (f"No calibration: {error}",)
    return (found.rule if found.helps else default), ()


def _prm(bundle: Path | None, *, strict: bool) -> tuple[Path | None, tuple[str, ...]]:
    """The PRM's folder, from the environment or the bundle; one that cannot be used costs its scores."""
    try:
        prm = _folder_from(PRM_VARIABLE)
        if prm is None and bundle is not None and (bundle / PRM_FOLDER / "config.json").is_file():
            prm = (bundle / PRM_FOLDER).resolve()
        if prm is not None:
            check_prm(prm)
    except ValueError as error:
        if strict:
            raise
        return None, (f"No PRM: {error}",)
    return prm, ()


def _folder_from(variable: str) -> Path | None:
    value = os.environ.get(variable)
    if not value:
        return None
    folder = Path(value).resolve()
    if not (folder / "config.json").is_file():
        raise ValueError(f"{variable}={value}: no config.json there; name the folder of a checkpoint")
    return folder


def _with_team(settings: ContestSettings, team: str | None) -> ContestSettings:
    return settings if team is None else settings.model_copy(update={"team": load_team(team)})


def _checked(settings: ContestSettings, prm: Path | None) -> tuple[ContestSettings, tuple[str, ...]]:
    """Where vllm is not installed, transformers serves instead: slower, and said so. Nobody swaps alone."""
    recording = settings.engine.recording
    if settings.engine.kind == "replay" and (recording is None or not recording.is_file()):
        raise ValueError(f"engine.kind = 'replay': engine.recording {recording} is not a file of samples")
    if settings.engine.kind != "vllm" or importlib.util.find_spec("vllm") is not None:
        if settings.prm.swap and prm is None:
            return _without_swap(settings), ("prm.swap is off: there is no PRM to take turns with.",)
        return settings, ()
    if importlib.util.find_spec("transformers") is None:
        raise ValueError("neither vllm nor transformers is installed: install an extra (cuda, cpu or hf)")
    engine = settings.engine.model_copy(update={"kind": "transformers"})
    note = "vllm is not installed here: the slower transformers engine answered."
    return _without_swap(settings).model_copy(update={"engine": engine}), (note,)


def _without_swap(settings: ContestSettings) -> ContestSettings:
    return settings.model_copy(update={"prm": settings.prm.model_copy(update={"swap": False})})


def _digest(settings: ContestSettings, source: str, *folders: Path | None) -> str:
    """Fingerprint of a contest: its settings, where the model comes from, and what those folders hold."""
    digest = hashlib.sha256(f"{source}\n{settings.model_dump_json()}".encode())
    recording = settings.engine.recording
    files = [item for folder in folders if folder for item in sorted(folder.iterdir())]
    for file in [*files, *([recording] if recording else [])]:
        status = file.stat()
        digest.update(f"\n{file} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
