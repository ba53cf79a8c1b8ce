"""The wheels of a bundle: resolved for a target, locked by hash, downloaded once, checked by their tags.

For this machine pip resolves, so that its own configuration (a folder of CPU builds of torch, a mirror)
counts; for another target uv does (`kit.package.resolve`). pip downloads what was chosen. Wheels and locks
are kept in `build/wheels/TARGET/`; the lock's name is a digest of everything that the choice depends on, so a
second build downloads nothing and a changed requirement is never served from the old choice.
"""

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from kit.package.resolve.elsewhere import resolve_elsewhere
from kit.package.resolve.here import resolve_here
from kit.package.resolve.lock import Lock, Pin, canonical
from kit.package.resolve.starting import companions, known
from kit.package.targets import Target
from submission.checkpoint import LeftOut
from submission.files import write_text

ROOT = Path(__file__).resolve().parents[2]
ORGANISER_NEEDS = ("grpcio-tools", "numpy", "pandas", "polars", "protobuf", "pyarrow")
"""Imported by the organiser's `kaggle_evaluation`, which runs inside the bundle's environment.

Since 1.7 it compiles its messages as it is imported, and calls pip where grpcio-tools is missing: that
environment has no pip.
"""
BREAK_ON_CPU = ("torchaudio", "torchcodec", "torchvision")
"""Their builds on the index want CUDA libraries and make `import vllm` fail on a CPU."""
_FORMAT = 2
"""Of the locks in the cache; others are resolved anew."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel of a bundle; `version` has its local part (`2.13.0+cpu`)."""

    file: str
    name: str
    version: str
    sha256: str
    size: int
    license: str


@dataclass(frozen=True, slots=True)
class Wheelhouse:
    """A folder of wheels with the chosen ones, sorted by name, and what was left out of the choice."""

    folder: Path
    wheels: tuple[Wheel, ...]
    left_out: tuple[LeftOut, ...] = ()

    def requirements(self) -> str:
        """The text of a requirements file that pins every wheel by hash."""
        return "".join(
            f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in self.wheels
        )


def requirements(target: Target, root: Path = ROOT) -> list[str]:
    """What a bundle needs: the project's base dependencies, the target's engine, the organiser's imports."""
    path = root / "pyproject.toml"
    try:
        project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); package from a checkout") from None
    named = [*project["dependencies"], *project["optional-dependencies"][target.engine]]
    given = {canonicalize_name(Requirement(text).name) for text in named}
    return sorted([*named, *(name for name in ORGANISER_NEEDS if name not in given)])


def resolve(target: Target, cache: Path, root: Path = ROOT, leave_out: Iterable[str] = ()) -> Lock:
    """Which wheels the target needs: from `cache`, or resolved and kept there. Downloads no wheel.

    Companions that keep a chosen package from compiling at start (`kit.package.resolve.starting`) are asked
    for besides, each time until the index has them: without them the build is refused, unless `leave_out`
    names the package.

    Raises:
        ValueError: the requirements do not resolve to wheels for the target; the message names the package.
    """
    constraints = root / "constraints.txt"
    needed = requirements(target, root)
    path = cache / target.name / f"{_key(target, needed, constraints)}.lock.json"
    choose = resolve_here if target == _local_or_none() else resolve_elsewhere
    lock = Lock.load(path) if path.exists() else choose(target, needed, constraints)
    for companion in companions(without(lock, leave_out)[0], known()):
        # That it cannot be had is said by `check_start`, with the way out.
        with contextlib.suppress(ValueError):
            lock = choose(target, [*needed, companion], constraints, told=False)
            needed.append(companion)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock.save(path)
    return lock


def wheelhouse(target: Target, cache: Path, root: Path = ROOT, leave_out: Iterable[str] = ()) -> Wheelhouse:
    """Resolve, download and check the wheels for `target`, or take them from `cache` if they are there.

    Args:
        leave_out: packages that are wanted by others and not taken along all the same.

    Raises:
        ValueError: the requirements do not resolve, a package has no wheel for the target, `leave_out` names
            none of them, or a download failed; run again, what was downloaded is kept.
    """
    leave_out = tuple(leave_out)
    lock = resolve(target, cache, root, leave_out)
    kept, left_out = without(lock, leave_out)
    folder = cache / target.name
    text = json.dumps([_FORMAT, asdict(lock), [pin.name for pin in kept]])
    done = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.wheels.json"
    wheels = _read_done(folder, done)
    if wheels is None:
        _download(target, kept, folder)
        wheels = tuple(_described(folder / pin.file, pin, target) for pin in kept)
        write_text(done, json.dumps([asdict(wheel) for wheel in wheels], indent=1) + "\n")
    return Wheelhouse(folder, wheels, left_out)


def without(lock: Lock, leave_out: Iterable[str]) -> tuple[tuple[Pin, ...], tuple[LeftOut, ...]]:
    """The pins that are taken along, and notes of those that are not.

    Raises:
        ValueError: a name in `leave_out` is not in the lock.
    """
    reasons = {}
    if lock.target.endswith("-cpu"):
        reasons = dict.fromkeys(BREAK_ON_CPU, "its build breaks `import vllm` on a CPU")
    for name in canonical(leave_out):
        if name not in lock.by_name:
            raise ValueError(f"--leave-out {name}: no such wheel for {lock.target}; see --explain")
        reasons[name] = "left out by --leave-out"
    kept = tuple(pin for pin in lock.pins if pin.name not in reasons)
    return kept, tuple(LeftOut(f"wheels/{name}", reason) for name, reason in reasons.items())


def _local_or_none() -> Target | None:
    try:
        return Target.local()
    except ValueError:
        return None


def _key(target: Target, needed: Sequence[str], constraints: Path) -> str:
    try:
        pins = constraints.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{constraints} cannot be read ({error.strerror}); package from a checkout"
        ) from None
    text = json.dumps([_FORMAT, target.name, list(needed), pins])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_done(folder: Path, done: Path) -> tuple[Wheel, ...] | None:
    """What was downloaded, if every one of its files stands; their hashes are checked on copy."""
    if not done.exists():
        return None
    wheels = tuple(Wheel(**item) for item in json.loads(done.read_text(encoding="utf-8")))
    whole = all(
        (folder / wheel.file).is_file() and (folder / wheel.file).stat().st_size == wheel.size
        for wheel in wheels
    )
    return wheels if whole else None


def _download(target: Target, pins: Sequence[Pin], folder: Path) -> None:
    """Download the chosen wheels into `folder`, those already there excepted."""
    here = target == _local_or_none()
    abroad = ["--python-version", target.python, "--implementation", "cp", "--abi", f"cp3{target.minor}"]
    abroad += [part for platform in target.platforms for part in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "requirements.txt"
        listed.write_text("".join(f"{pin.line}\n" for pin in pins), encoding="utf-8")
        common = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(listed)]
        where = [] if here else abroad
        command = [sys.executable, "-P", "-m", "pip", "download", *common, *where, "--dest", str(folder)]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ValueError(
            f"pip could not download the wheels for {target.name} (exit code {done.returncode}, its own "
            "words are above); check the network and the configuration of the index, then run again: what "
            "was downloaded is kept"
        )


def _described(path: Path, pin: Pin, target: Target) -> Wheel:
    """The downloaded wheel, once it is the one that was chosen."""
    if not path.is_file():
        raise ValueError(f"no wheel {pin.file} for {target.name} in {path.parent}; run the build again")
    wheel = describe(path, target)
    if wheel.sha256 != pin.sha256:
        raise ValueError(f"{path} is not the wheel that was chosen; remove it and run the build again")
    return wheel


def describe(path: Path, target: Target) -> Wheel:
    """Read a wheel's name, version, licence and digest; ValueError if it does not run on `target`."""
    if path.suffix != ".whl":
        raise ValueError(
            f"{path.name} is a source distribution: it would be compiled at the contest; refused"
        )
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise ValueError(
            f"{path.name} is not a wheel's name ({error}); remove it from {path.parent}"
        ) from None
    if not tags & target.tags:
        raise ValueError(f"wheel {path.name} does not run on {target.name}; remove it from {path.parent}")
    return Wheel(path.name, name, str(version), _sha256(path), path.stat().st_size, _license(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _license(path: Path) -> str:
    """The licence that a wheel's METADATA states, as one line; `unknown` where it states none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            text = archive.read(min(names, key=len)).decode("utf-8", "replace")
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole wheel ({error}); remove it and run the build again"
        ) from None
    metadata = HeaderParser().parsestr(text)
    classifiers = [
        str(value).rsplit(" :: ", 1)[-1]
        for value in metadata.get_all("Classifier", [])
        if str(value).startswith("License ::")
    ]
    stated = metadata.get("License-Expression") or "; ".join(classifiers) or metadata.get("License")
    return str(stated or "unknown").strip().split("\n", 1)[0][:200]
