"""Whether a bundle's wheels belong to it and to each other, and are archives that may be unpacked.

From names, digests, the archives' lists of files, and their METADATA; no wheel is unpacked or installed.
"""

import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import PurePosixPath
from typing import IO

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from kit.package.joined import open_parts
from kit.package.targets import Target
from submission.bundle import Bundle
from submission.joining import joined_files

MOST_RATIO = 100
"""A wheel that unpacks to more than this many times its size, and 64 MiB, is a bomb: CUDA's reach about 5."""
FREE_BYTES = 64 << 20
MOST_METADATA = 4 << 20
START_HOOKS = frozenset({"sitecustomize.py", "usercustomize.py"})
KNOWN_PTH = frozenset({("setuptools", "distutils-precedence.pth")})
"""Wheel and file: run at every start of Python, and read by people."""
_LOCKED = re.compile(r"([A-Za-z0-9._-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)")


@dataclass(frozen=True, slots=True)
class WheelFault:
    """What is wrong with one wheel, and how to mend it."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class _Found:
    """A wheel of the bundle: where, its name and version, and what its METADATA asks for."""

    path: str
    name: str
    version: Version
    sha256: str
    needs: tuple[Requirement, ...] = ()


def audit_wheels(bundle: Bundle) -> list[WheelFault]:
    """Everything that is wrong with a bundle's wheels and `requirements.txt`."""
    target = Target.parse(str(bundle.manifest.data.get("target")))
    faults: list[WheelFault] = []
    found: dict[str, _Found] = {}
    tags = target.tags
    for path, sha256, parts in _listed(bundle, faults):
        named, fitting = _named(path, sha256, faults)
        if named is None:
            continue
        if not fitting & tags:
            message = f"does not run on {target.name}; build the bundle again with --target {target.name}"
            faults.append(WheelFault(path, message))
        if named.name in found:
            faults.append(WheelFault(path, f"is a second wheel of {named.name}; remove one"))
        try:
            with open_parts(bundle.root, parts) as file:
                needs = _read(path, named.name, file, faults)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
            faults.append(WheelFault(path, f"is not a whole wheel ({error}); remove it and build again"))
            continue
        found[named.name] = _Found(path, named.name, named.version, sha256, needs)
    faults += _lock_faults(bundle, found)
    faults += _need_faults(found, target, _left_out(bundle))
    return faults


def _listed(bundle: Bundle, faults: list[WheelFault]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Each wheel's path, digest and the files that it lies in."""
    try:
        joined = joined_files(bundle.manifest)
    except ValueError as error:
        faults.append(WheelFault("manifest.json", f"is not usable: {error}"))
        joined = ()
    parts = {part.path for item in joined for part in item.parts}
    for entry in bundle.manifest.entries:
        if not entry.path.startswith("wheels/") or entry.path in parts:
            continue
        if entry.path.count("/") > 1 or not entry.path.endswith(".whl"):
            message = (
                "is not a wheel (source distributions are compiled at the contest); remove it, build again"
            )
            faults.append(WheelFault(entry.path, message))
        else:
            yield entry.path, entry.sha256, [entry.path]
    for item in joined:
        yield item.path, item.sha256, [part.path for part in item.parts]


def _named(path: str, sha256: str, faults: list[WheelFault]) -> tuple[_Found | None, frozenset[Tag]]:
    """The wheel as its file's name tells, without what it needs, and its tags."""
    try:
        name, version, _, tags = parse_wheel_filename(path.rpartition("/")[2])
    except InvalidWheelFilename as error:
        faults.append(WheelFault(path, f"is not a wheel's name ({error}); remove it and build again"))
        return None, frozenset()
    return _Found(path, name, version, sha256), tags


def _read(path: str, name: str, file: IO[bytes], faults: list[WheelFault]) -> tuple[Requirement, ...]:
    """Look through one archive; returns what its METADATA asks for."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        file.seek(0, 2)
        size = file.tell()
        faults += [WheelFault(path, message) for message in _member_faults(name, members, size)]
        metadata = [item for item in members if re.fullmatch(r"[^/]+\.dist-info/METADATA", item.filename)]
        if len(metadata) != 1:
            raise ValueError(f"it has {len(metadata)} METADATA files, not one")
        if metadata[0].file_size > MOST_METADATA:
            raise ValueError("its METADATA is huge")
        with archive.open(metadata[0]) as opened:
            text = opened.read(MOST_METADATA).decode("utf-8", "replace")
    headers = HeaderParser().parsestr(text)
    if canonicalize_name(str(headers.get("Name"))) != name:
        faults.append(
            WheelFault(path, f"holds {ascii(headers.get('Name'))[:60]}, another package; build again")
        )
    try:
        return tuple(Requirement(str(line)) for line in headers.get_all("Requires-Dist", []))
    except InvalidRequirement as error:
        raise ValueError(f"its METADATA asks for {str(error)[:100]!r}") from None


def _member_faults(name: str, members: Sequence[zipfile.ZipInfo], size: int) -> Iterator[str]:
    for item in members:
        shown = ascii(item.filename[:100])
        parts = item.filename.split("/")
        if item.filename.startswith("/") or ".." in parts or "\\" in item.filename or ":" in parts[0]:
            yield f"would write outside its folder ({shown}); remove it and obtain it again"
        if stat.S_ISLNK(item.external_attr >> 16):
            yield f"holds a symbolic link ({shown}); remove it and obtain it again"
        if item.flag_bits & 0x1:
            yield f"is encrypted ({shown}); remove it and obtain it again"
        inner = PurePosixPath(item.filename)
        at_top = len(parts) == 1 or (len(parts) == 3 and parts[0].endswith(".data"))
        if at_top and inner.name in START_HOOKS:
            yield f"holds {shown}, which Python runs at every start; take a wheel without it"
        if at_top and inner.suffix == ".pth" and (name, inner.name) not in KNOWN_PTH:
            yield f"holds {shown}, which Python runs at every start; read it, then add it to KNOWN_PTH"
    if len({item.filename for item in members}) != len(members):
        yield "names a file twice; remove it and obtain it again"
    unpacked = sum(item.file_size for item in members)
    if unpacked > MOST_RATIO * size + FREE_BYTES:
        yield f"has {size} bytes and would unpack to {unpacked}; remove it and obtain it again"


def _lock_faults(bundle: Bundle, found: Mapping[str, _Found]) -> list[WheelFault]:
    """`requirements.txt` against the wheels: each line has its wheel, each wheel its line, by digest."""
    path = bundle.root / "requirements.txt"
    locked: dict[str, tuple[str, str]] = {}
    faults = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        if not line.strip() or line.startswith("#"):
            continue
        match = _LOCKED.fullmatch(line.strip())
        if match is None:
            message = f"has the line {line[:80]!a}, which is not name==version --hash=sha256:..."
            faults.append(WheelFault("requirements.txt", f"{message}; build the bundle again"))
        else:
            locked[canonicalize_name(match[1])] = (match[2], match[3])
    for name, (version, hashes) in locked.items():
        wheel = found.get(name)
        if wheel is None:
            message = f"has no wheel for {name}=={version} in wheels/; build the bundle again with its wheels"
            faults.append(WheelFault("requirements.txt", message))
        elif str(wheel.version) != str(Version(version)) or wheel.sha256 not in hashes:
            message = f"is not the wheel that requirements.txt locks ({name}=={version}); build again"
            faults.append(WheelFault(wheel.path, message))
    faults += [
        WheelFault(wheel.path, "is not in requirements.txt and would not be installed; build again")
        for name, wheel in found.items()
        if name not in locked
    ]
    return faults


def _left_out(bundle: Bundle) -> frozenset[str]:
    """Names that the build left out on purpose, as its manifest says."""
    notes = bundle.manifest.data.get("left_out")
    paths = (
        [str(note.get("path")) for note in notes if isinstance(note, dict)] if isinstance(notes, list) else []
    )
    return frozenset(path.removeprefix("wheels/") for path in paths if path.startswith("wheels/"))


def _need_faults(found: Mapping[str, _Found], target: Target, left_out: frozenset[str]) -> list[WheelFault]:
    """Each wheel's own requirements: a wheel that was removed together with its line is missed here."""
    environment = _environment(target)
    faults = []
    for name, extra in _wanted_extras(found, environment):
        for need in found[name].needs:
            wanted = canonicalize_name(need.name)
            if wanted in left_out or not _applies(need, environment, extra):
                continue
            held = found.get(wanted)
            if held is None:
                message = f"needs {need.name}{need.specifier}, and wheels/ has none; build the bundle again"
            elif not need.specifier.contains(held.version, prereleases=True):
                message = f"needs {need.name}{need.specifier}, and wheels/ has {held.version}; build again"
            else:
                continue
            faults.append(WheelFault(found[name].path, message))
    return faults


def _wanted_extras(found: Mapping[str, _Found], environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Every wheel with each of its extras that another wheel asks for, and with none."""
    wanted = {(name, "") for name in found}
    pending = sorted(wanted)
    while pending:
        name, extra = pending.pop()
        for need in found[name].needs:
            other = canonicalize_name(need.name)
            if other in found and _applies(need, environment, extra):
                new = {(other, more) for more in need.extras} - wanted
                wanted |= new
                pending += sorted(new)
    return sorted(wanted)


def _applies(need: Requirement, environment: Mapping[str, str], extra: str) -> bool:
    return need.marker is None or need.marker.evaluate({**environment, "extra": extra})


def _environment(target: Target) -> dict[str, str]:
    """What markers ask, of the target. The patch number is unknown: the last one asks for the least."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{target.python}.99",
        "os_name": "posix",
        "platform_machine": target.machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{target.python}.99",
        "python_version": target.python,
        "sys_platform": "linux",
    }
