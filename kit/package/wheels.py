"""The wheels of a bundle: resolved for a target, locked by hash, downloaded once, checked by their tags.

For this machine pip resolves, so that its own configuration (a folder of CPU builds of torch, a mirror)
counts; for another target uv does, and pip downloads what uv chose. Wheels and locks are kept in
`build/wheels/TARGET/`; the lock's name is a digest of everything that the choice depends on, so a second
build downloads nothing and a changed requirement is never served from the old choice.
"""

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

from kit.package.targets import Target
from submission.checkpoint import LeftOut
from submission.files import write_text

ROOT = Path(__file__).resolve().parents[2]
ORGANISER_NEEDS = ("numpy", "pandas", "polars", "protobuf", "pyarrow")
"""Imported by the organiser's `kaggle_evaluation`, which runs inside the bundle's environment."""
BREAK_ON_CPU = ("torchaudio", "torchcodec", "torchvision")
"""Their builds on the index want CUDA libraries and make `import vllm` fail on a CPU."""


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


def wheelhouse(target: Target, cache: Path, root: Path = ROOT) -> Wheelhouse:
    """Resolve, download and check the wheels for `target`, or take them from `cache` if they are there.

    Raises:
        ValueError: the requirements do not resolve, a package has no wheel for the target, or a download
            failed; run again, what was downloaded is kept.
    """
    folder = cache / target.name
    constraints = root / "constraints.txt"
    needed = requirements(target, root)
    lock = folder / f"{_key(target, needed, constraints)}.json"
    kept = _read_lock(folder, lock)
    if kept:
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    choice = lock.with_suffix(".txt")
    if not choice.exists():
        resolve = _resolve_here if target == _local_or_none() else _resolve_elsewhere
        write_text(choice, resolve(target, needed, constraints))
    left_out = BREAK_ON_CPU if target.engine == "cpu" else ()
    names = _download(target, choice, folder, left_out)
    wheels = tuple(sorted((describe(path, target) for path in names), key=lambda wheel: wheel.name))
    house = Wheelhouse(folder, wheels, _reasons(left_out))
    write_text(lock, json.dumps([asdict(wheel) for wheel in wheels], indent=1) + "\n")
    return house


def _local_or_none() -> Target | None:
    try:
        return Target.local()
    except ValueError:
        return None


def _reasons(names: Iterable[str]) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(f"wheels/{name}", "its build breaks `import vllm` on a CPU") for name in names)


def _key(target: Target, needed: Sequence[str], constraints: Path) -> str:
    try:
        pins = constraints.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{constraints} cannot be read ({error.strerror}); package from a checkout"
        ) from None
    text = json.dumps([target.name, list(needed), BREAK_ON_CPU, pins])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_lock(folder: Path, lock: Path) -> Wheelhouse | None:
    """The finished choice, if its lock and every one of its files stand; their hashes are checked on copy."""
    if not lock.exists():
        return None
    wheels = tuple(Wheel(**item) for item in json.loads(lock.read_text(encoding="utf-8")))
    whole = all(
        (folder / wheel.file).is_file() and (folder / wheel.file).stat().st_size == wheel.size
        for wheel in wheels
    )
    left_out = BREAK_ON_CPU if "-cpu" in folder.name else ()
    return Wheelhouse(folder, wheels, _reasons(left_out)) if whole else None


def _resolve_here(target: Target, needed: Sequence[str], constraints: Path) -> str:
    """Let pip choose for this interpreter; returns `name==version --hash=...` lines."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [
            *(sys.executable, "-P", "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"),
            *("--only-binary=:all:", "--report", str(report), "--constraint", str(constraints), *needed),
        ]
        _run(command, f"pip could not resolve the wheels for {target.name}")
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    lines = []
    for item in items:
        metadata, hashes = item["metadata"], item["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" not in hashes:
            raise ValueError(f"pip gave no SHA-256 for {metadata['name']}; update pip (26 or later)")
        name = canonicalize_name(metadata["name"])
        lines.append(f"{name}=={metadata['version']} --hash=sha256:{hashes['sha256']}\n")
    return "".join(sorted(lines))


def _resolve_elsewhere(target: Target, needed: Sequence[str], constraints: Path) -> str:
    """Let uv choose for another Python or platform; returns a requirements file with hashes."""
    try:
        from uv import find_uv_bin
    except ImportError:
        raise ValueError(
            f"target {target.name} is not this machine and needs uv: install `package`"
        ) from None
    with tempfile.TemporaryDirectory() as scratch:
        wanted, chosen = Path(scratch) / "requirements.in", Path(scratch) / "requirements.txt"
        wanted.write_text("\n".join(needed) + "\n", encoding="utf-8")
        command = [
            *(find_uv_bin(), "pip", "compile", "--quiet", "--only-binary", ":all:", "--generate-hashes"),
            *("--no-annotate", "--no-header", "--python-version", target.python),
            *("--python-platform", target.uv_platform, "--constraint", str(constraints)),
            *("--output-file", str(chosen), str(wanted)),
        ]
        _run(
            command,
            f"uv could not resolve the wheels for {target.name}; a package may have wheels for a newer glibc "
            "only (Kaggle's image takes manylinux_2_35)",
        )
        return chosen.read_text(encoding="utf-8")


def _download(target: Target, choice: Path, folder: Path, left_out: Sequence[str]) -> list[Path]:
    """Download the chosen wheels into `folder`, those already there excepted; returns them."""
    wanted = [
        line for line in _logical_lines(choice.read_text(encoding="utf-8")) if _name(line) not in left_out
    ]
    here = target == _local_or_none()
    abroad = ["--python-version", target.python, "--implementation", "cp", "--abi", f"cp3{target.minor}"]
    abroad += [part for platform in target.platforms for part in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "requirements.txt"
        listed.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        common = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(listed)]
        where = [] if here else abroad
        command = [sys.executable, "-P", "-m", "pip", "download", *common, *where, "--dest", str(folder)]
        _run(command, f"pip could not download the wheels for {target.name}")
    return _chosen_files(wanted, folder, target)


def _logical_lines(text: str) -> list[str]:
    joined = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in joined if line.strip() and not line.lstrip().startswith("#")]


def _name(line: str) -> str:
    return canonicalize_name(Requirement(line.split(" --hash", maxsplit=1)[0].strip()).name)


def _chosen_files(wanted: Sequence[str], folder: Path, target: Target) -> list[Path]:
    """The wheels in `folder` that the locked lines mean: same name, same version, one of the hashes."""
    found = []
    for line in wanted:
        requirement = Requirement(line.split(" --hash", maxsplit=1)[0].strip())
        fits = [
            path
            for path in folder.glob("*.whl")
            if canonicalize_name(path.name.split("-")[0]) == canonicalize_name(requirement.name)
            and requirement.specifier.contains(parse_wheel_filename(path.name)[1], prereleases=True)
            and _sha256(path) in line
        ]
        if not fits:
            raise ValueError(f"no wheel of {requirement} for {target.name} in {folder}; run the build again")
        found.append(fits[0])
    return found


def _run(command: Sequence[str], failure: str) -> None:
    """Run a resolver with its own messages shown; ValueError when it fails."""
    try:
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ValueError(f"{failure}: {command[0]} cannot be run ({error.strerror})") from None
    if done.returncode:
        raise ValueError(
            f"{failure} (exit code {done.returncode}, its own words are above); check the network and the "
            "configuration of the index (CPU builds of torch come from a folder or index of their own), then "
            "run again: what was downloaded is kept"
        )


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
