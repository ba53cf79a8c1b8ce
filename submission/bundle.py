"""The bundle as a folder: its manifest, the check that nothing in it changed, and its offline install.

A bundle is what the contest machine mounts: code, weights, wheels, settings, and `manifest.json` with the
size and SHA-256 of every other file. The manifest is input like any other: its paths are checked before they
are used, and no read follows a link, so a hostile bundle can neither lead a reader out of its folder nor
hide a file. Only the standard library is used, since this runs before anything is installed.
"""

import hashlib
import json
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

MANIFEST = "manifest.json"
FORMAT = "aimo-bundle"
VERSION = 1
# The official client takes this file from the folder it uploads and does not upload it.
NOT_UPLOADED = frozenset({"dataset-metadata.json"})
MAX_MANIFEST_BYTES = 64 << 20
MAX_FILES = 200_000
MAX_PATH_BYTES = 1024
MAX_DEPTH = 32
CHUNK = 1 << 20

Progress = Callable[[int], None]
"""Called with the number of bytes just done, from several threads."""
Kind = Literal["changed", "missing", "added", "linked"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a bundle: its path below the bundle's folder (with `/`), bytes, and SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest: every path in `entries` is relative, normalised and unique."""

    entries: tuple[Entry, ...]
    data: Mapping[str, Any]
    """All other keys (project, git, target, settings, model, notes). Nothing is opened by what they say."""
    digest: str
    """SHA-256 of the manifest file itself: it names the bundle's whole content."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one path of a bundle, and how to mend it."""

    path: str
    kind: Kind
    message: str


def load_manifest(path: Path) -> Manifest:
    """Read and check a bundle's `manifest.json`.

    Raises:
        ValueError: it is missing, a link, too large, or not a valid manifest; the message names the key or
            path at fault and the fix.
    """
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read as a bundle's manifest: {error.strerror}; name a folder made by "
            "python -m kit.package"
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is not a regular file; build the bundle again")
        raw = file.read(MAX_MANIFEST_BYTES + 1)
    return parse_manifest(raw, str(path))


def parse_manifest(raw: bytes, place: str) -> Manifest:
    """Check a manifest's bytes; `place` is where they came from, for the error message (ValueError)."""
    if len(raw) > MAX_MANIFEST_BYTES:
        _refuse(place, f"it is larger than {MAX_MANIFEST_BYTES >> 20} MiB")
    try:
        data = json.loads(raw, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(place, f"it is not valid JSON ({str(error)[:200] or type(error).__name__})")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        _refuse(place, f'it has no "format": "{FORMAT}"')
    if type(data.get("version")) is not int or data["version"] != VERSION:
        _refuse(place, f"version {_shown(data.get('version'))} is not {VERSION}, the one this code reads")
    files = data.pop("files", None)
    if not isinstance(files, list):
        _refuse(place, '"files" is not a list')
    if len(files) > MAX_FILES:
        _refuse(place, f"it lists {len(files)} files; at most {MAX_FILES} are allowed")
    entries = tuple(_parse_entry(item, index, place) for index, item in enumerate(files))
    _check_unique(entries, place)
    return Manifest(entries, data, hashlib.sha256(raw).hexdigest())


def _parse_entry(item: Any, index: int, place: str) -> Entry:
    if not isinstance(item, dict) or set(item) != {"path", "size", "sha256"}:
        _refuse(place, f"files[{index}] is not an object with exactly path, size and sha256")
    path, size, digest = item["path"], item["size"], item["sha256"]
    fault = path_fault(path)
    if fault:
        _refuse(place, f"files[{index}]: the path {_shown(path)} {fault}")
    if type(size) is not int or not 0 <= size < 1 << 63:
        _refuse(place, f"files[{index}] ({_shown(path)}): size {_shown(size)} is not a number of bytes")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        _refuse(place, f"files[{index}] ({_shown(path)}): sha256 {_shown(digest)} is not 64 hex digits")
    return Entry(path, size, digest)


def path_fault(path: object) -> str | None:
    """Why `path` may not stand in a manifest ("leaves the bundle", ...), or None if it may."""
    if not isinstance(path, str) or not path:
        return "is not a non-empty string"
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid Unicode"
    parts = path.split("/")
    too_long = len(raw) > MAX_PATH_BYTES or any(len(part.encode("utf-8")) > 255 for part in parts)
    faults = {
        f"is too long (at most {MAX_PATH_BYTES} bytes, 255 a part)": too_long,
        f"is too deep (at most {MAX_DEPTH} parts)": len(parts) > MAX_DEPTH,
        "has a control character": any(ord(character) < 32 or ord(character) == 127 for character in path),
        "has a backslash; parts are separated by /": "\\" in path,
        "is absolute; it must be relative to the bundle": path.startswith("/"),
        "leaves the bundle through '..'": ".." in parts,
        "is not normalised (no '.', no empty part, no / at the end)": "." in parts or "" in parts,
        "is the manifest itself, which cannot hold its own digest": path == MANIFEST,
    }
    return next((fault for fault, present in faults.items() if present), None)


def _check_unique(entries: tuple[Entry, ...], place: str) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            _refuse(place, f"the path {_shown(entry.path)} is listed twice")
        seen.add(entry.path)
    for entry in entries:
        for folder in _parents(entry.path):
            if folder in seen or folder == MANIFEST:
                _refuse(
                    place, f"{_shown(folder)} is listed as a file and is a folder of {_shown(entry.path)}"
                )


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refuse(place: str, reason: str) -> NoReturn:
    raise ValueError(f"{place} is not a bundle's manifest: {reason}; build the bundle again with kit.package")


def _shown(value: object) -> str:
    """`value` for a message: printable whatever it holds, and short."""
    text = ascii(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, root: Path) -> "Bundle":
        """Read the manifest of the bundle at `root` (ValueError as in `load_manifest`)."""
        root = Path(root)
        return cls(root, load_manifest(root / MANIFEST))

    @property
    def settings(self) -> Path:
        """The contest's settings (`submission.settings.ContestSettings`)."""
        return self.root / "contest.toml"

    @property
    def model(self) -> Path:
        """The checkpoint's folder; ValueError when it is absent or a link."""
        return model_dir(self.root)


def model_dir(bundle: Path) -> Path:
    """Folder of the bundle's checkpoint; ValueError when it is absent, a link, or has no config.json."""
    folder = Path(bundle) / "model"
    config = folder / "config.json"
    if folder.is_symlink() or config.is_symlink() or not config.is_file():
        raise ValueError(f"bundle {bundle} has no model/config.json of its own; verify it and build it again")
    return folder


def verify(bundle: Path, progress: Progress | None = None) -> list[Problem]:
    """Compare every file of a bundle with its manifest, hashing on all cores.

    Returns the changed, missing, added and linked paths, sorted; an empty list means that the bundle is what
    was built. Anything that is neither a regular file nor a folder (symbolic link, fifo, socket, device) is
    reported and never opened. Raises ValueError where the manifest itself is not valid.
    """
    opened = Bundle.open(bundle)
    root = os.open(opened.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        problems, intact = _check_sizes(root, opened.manifest)
        # Largest first: the last thread to finish then has the least left to do.
        intact.sort(key=lambda entry: -entry.size)
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            futures = [pool.submit(_check_digest, root, entry, progress) for entry in intact]
            try:
                found = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        os.close(root)
    problems.extend(problem for problem in found if problem)
    return sorted(problems, key=lambda problem: problem.path)


def quick_check(bundle: Path) -> list[Problem]:
    """What `verify` finds without reading contents: paths and sizes. For the start of a contest run.

    Files that the upload leaves out (`NOT_UPLOADED`) may be missing.
    """
    opened = Bundle.open(bundle)
    root = os.open(opened.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        problems, _ = _check_sizes(root, opened.manifest)
    finally:
        os.close(root)
    return sorted(
        (found for found in problems if found.kind != "missing" or found.path not in NOT_UPLOADED),
        key=lambda problem: problem.path,
    )


def _check_sizes(root: int, manifest: Manifest) -> tuple[list[Problem], list[Entry]]:
    """Problems seen from names, kinds and sizes, and the entries whose content is still to be checked."""
    expected = {entry.path: entry for entry in manifest.entries}
    folders = {folder for path in expected for folder in _parents(path)}
    problems: list[Problem] = []
    seen: set[str] = set()
    intact: list[Entry] = []
    for path, status in _walk(root):
        entry = expected.get(path)
        if stat.S_ISDIR(status.st_mode):
            if path not in folders:
                problems.append(_added(path))
        elif not stat.S_ISREG(status.st_mode):
            seen.add(path)
            problems.append(_linked(path, status.st_mode))
        elif entry is None:
            if path != MANIFEST:
                problems.append(_added(path))
        else:
            seen.add(path)
            if status.st_size != entry.size:
                message = (
                    f"has {status.st_size} bytes, the manifest says {entry.size}; build the bundle again"
                )
                problems.append(Problem(path, "changed", message))
            else:
                intact.append(entry)
    problems.extend(
        Problem(path, "missing", "is in the manifest but not in the folder; copy or build the bundle again")
        for path in expected.keys() - seen
    )
    return problems, intact


def _added(path: str) -> Problem:
    return Problem(path, "added", "is not in the manifest; remove it or build the bundle again")


def _linked(path: str, mode: int) -> Problem:
    names = {stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
    name = names.get(stat.S_IFMT(mode), "device")
    return Problem(path, "linked", f"is a {name}, and a bundle holds only plain files; build it again")


def _walk(root: int) -> Iterator[tuple[str, os.stat_result]]:
    """Every path below the folder, links not followed. Not recursive, so depth costs no stack."""
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            descriptor = open_beneath(root, folder, os.O_DIRECTORY) if folder else os.dup(root)
        except OSError as error:
            raise ValueError(
                f"the bundle's folder {_shown(folder)} cannot be read: {error.strerror}"
            ) from None
        try:
            with os.scandir(descriptor) as items:
                for item in items:
                    path = f"{folder}/{item.name}" if folder else item.name
                    status = item.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(path)
                    yield path, status
        finally:
            os.close(descriptor)


def open_beneath(root: int, path: str, flags: int = 0) -> int:
    """Open a path below the folder `root` part by part, so that a link swapped in later is not followed.

    Args:
        root: descriptor of the folder.
        flags: besides those for reading.

    Raises:
        OSError: it is not there, or a part of it is a link.
    """
    *folders, name = path.split("/")
    common = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.dup(root)
    try:
        for folder in folders:
            inner = os.open(folder, common | os.O_DIRECTORY, dir_fd=current)
            os.close(current)
            current = inner
        return os.open(name, common | os.O_NONBLOCK | flags, dir_fd=current)
    finally:
        os.close(current)


def _check_digest(root: int, entry: Entry, progress: Progress | None) -> Problem | None:
    try:
        descriptor = open_beneath(root, entry.path)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return _linked(entry.path, os.fstat(descriptor).st_mode)
            digest = hashlib.sha256()
            buffer = memoryview(bytearray(CHUNK))
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                if progress:
                    progress(count)
    except OSError as error:
        return Problem(entry.path, "changed", f"cannot be read: {error.strerror}; copy the bundle again")
    if digest.hexdigest() != entry.sha256:
        message = f"its content is not what was built (SHA-256 {digest.hexdigest()}); copy the bundle again"
        return Problem(entry.path, "changed", message)
    return None


def has_split_wheels(bundle: Path) -> bool:
    """Whether some wheels have to be joined before they are installed (`submission.joining`)."""
    return any((Path(bundle) / "wheels").glob("*.part-000"))


def install_commands(
    bundle: Path, environment: Path, python: str, *, split: bool | None = None
) -> list[list[str]]:
    """The commands that install a bundle's wheels into a new environment without a network.

    The environment sees none of the machine's own packages: a contest image brings builds of torch and its
    companions that break `import vllm` when mixed with ours, and what was rehearsed is then what runs. It is
    made without pip, since such images often lack `ensurepip`; the pip of `python` works on it from outside.
    `-P` keeps the working folder off the module path. Split wheels are joined beside the environment, and the
    joined ones removed after the install. pip compiles nothing: `submission.bytecode` then does it, for what
    is likely to be imported and on all cores.

    Args:
        split: as `has_split_wheels` says, where `bundle` is a place at which it does not lie yet.
    """
    bundle, environment = Path(bundle), Path(environment)
    pip = [
        python,
        "-P",
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "--python",
        str(environment / "bin" / "python"),
    ]
    offline = ["--no-index", "--no-deps", "--require-hashes", "--no-cache-dir", "--no-compile"]
    places = ["--find-links", str(bundle / "wheels")]
    before: list[list[str]] = []
    after: list[list[str]] = []
    if has_split_wheels(bundle) if split is None else split:
        joined = environment.with_name(f"{environment.name}-joined-wheels")
        places += ["--find-links", str(joined)]
        joining = _own(python, "joining", bundle)
        before = [[*joining, str(bundle), str(joined)]]
        after = [[*joining, "--remove", str(joined)]]
    return [
        [python, "-P", "-m", "venv", "--clear", "--without-pip", str(environment)],
        *before,
        [*pip, "install", *offline, *places, "-r", str(bundle / "requirements.txt")],
        *after,
        _own(str(environment / "bin" / "python"), "bytecode", bundle),
    ]


def _own(python: str, module: str, bundle: Path) -> list[str]:
    """The start of a command that runs the `main` of one of a bundle's own modules."""
    code = f"import sys; sys.path.insert(0, sys.argv.pop(1)); from submission.{module} import main; main()"
    return [python, "-P", "-B", "-c", code, str(bundle)]


def run_command(bundle: Path, python: Path) -> tuple[list[str], dict[str, str]]:
    """The start of a command line that runs a bundle's own code, and the variables it needs.

    The working folder is free (`-P` keeps it off the module path), so outputs need not go into the bundle,
    which the contest mounts read-only.
    """
    variables = {"PYTHONPATH": str(bundle), "PYTHONDONTWRITEBYTECODE": "1"}
    return [str(python), "-P", "-B", "-m", "submission", "--bundle", str(bundle)], variables
