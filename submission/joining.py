"""Puts wheels together that were split for an upload's limit on a file's size.

Only wheels are ever split as bytes: they cannot be installed in parts, and each is needed once, so it is
joined into the working disk, installed, and removed again. Weights are split into safetensors shards when the
bundle is built (`kit.package.splitting`): engines read those as they lie on the read-only mount.
Only the standard library is used, since this runs before anything is installed.
"""

import hashlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from submission.bundle import Bundle, Entry, Manifest, open_beneath

CHUNK = 1 << 20
_WHEEL = re.compile(r"wheels/[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl", re.ASCII)


@dataclass(frozen=True, slots=True)
class Joined:
    """A file that the bundle holds in parts: path, bytes and SHA-256 when whole, and its parts in order."""

    path: str
    size: int
    sha256: str
    parts: tuple[Entry, ...]


def part_name(path: str, number: int) -> str:
    """Path of part `number` (from 0) of a file."""
    return f"{path}.part-{number:03}"


def joined_files(manifest: Manifest) -> tuple[Joined, ...]:
    """The split files that a manifest lists under `joined`.

    Raises:
        ValueError: the list is not valid, or a part is not one of the bundle's files.
    """
    content = manifest.data.get("joined", [])
    if not isinstance(content, list):
        _refuse("it is not a list")
    entries = {entry.path: entry for entry in manifest.entries}
    found = tuple(_parse(item, entries) for item in content)
    if len({item.path for item in found}) != len(found):
        _refuse("a path is given twice")
    return found


def _parse(item: Any, entries: dict[str, Entry]) -> Joined:
    if not isinstance(item, dict) or set(item) != {"path", "size", "sha256", "parts"}:
        _refuse("an item is not an object with exactly path, size, sha256 and parts")
    path, size, digest, count = item["path"], item["size"], item["sha256"], item["parts"]
    if not isinstance(path, str) or len(path) > 250 or not _WHEEL.fullmatch(path) or path in entries:
        _refuse(f"{ascii(path)[:200]} is not the path of a wheel in wheels/ that lies there in parts only")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        _refuse(f"{path}: sha256 is not 64 hex digits")
    if type(count) is not int or not 1 <= count <= 999:
        _refuse(f"{path}: parts is not a number from 1 to 999")
    names = [part_name(path, number) for number in range(count)]
    missing = [name for name in names if name not in entries]
    if missing:
        _refuse(f"{path}: its part {missing[0]} is not in the manifest")
    parts = tuple(entries[name] for name in names)
    if type(size) is not int or size != sum(part.size for part in parts):
        _refuse(f"{path}: its parts do not have {ascii(size)[:30]} bytes together")
    return Joined(path, size, digest, parts)


def _refuse(reason: str) -> NoReturn:
    raise ValueError(
        f'manifest.json: "joined" is not valid: {reason}; build the bundle again with kit.package'
    )


def join(bundle: Path, folder: Path) -> list[Path]:
    """Join every split file of a bundle into `folder`, which is made; returns the whole files.

    Takes a MiB of memory, and disk for the joined files alone.

    Raises:
        ValueError: a part is not what was built, the disk is too small, or `folder` holds such a name.
    """
    opened = Bundle.open(bundle)
    listed = joined_files(opened.manifest)
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(item.size for item in listed), shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has {free / 1e9:.1f} GB free and joining split wheels takes {needed / 1e9:.1f} GB; "
            "free some space or set TMPDIR to another disk"
        )
    root = os.open(opened.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [_join(root, item, folder / item.path.rpartition("/")[2]) for item in listed]
    finally:
        os.close(root)


def _join(root: int, item: Joined, target: Path) -> Path:
    digest = hashlib.sha256()
    try:
        with target.open("xb", buffering=0) as writer:
            for part in item.parts:
                with os.fdopen(open_beneath(root, part.path), "rb", buffering=0) as reader:
                    left = part.size
                    while left and (data := reader.read(min(left, CHUNK))):
                        left -= len(data)
                        digest.update(data)
                        _write(writer.fileno(), data)
    except OSError as error:
        raise ValueError(
            f"{item.path} cannot be joined: {error.filename or target}: {error.strerror}; upload the bundle "
            "again, or make room"
        ) from None
    if digest.hexdigest() != item.sha256:
        target.unlink()
        raise ValueError(
            f"{item.path}: its parts do not make the wheel that was built; upload {item.parts[0].path} and "
            "the parts after it again"
        )
    return target


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def main() -> None:
    """`BUNDLE FOLDER`: join into a new folder; `--remove FOLDER`: remove it again."""
    first, second = sys.argv[1:]
    folder = Path(second)
    if folder.is_symlink():
        sys.exit(f"{folder} is a symbolic link; remove it")
    if folder.exists():
        shutil.rmtree(folder)
    if first == "--remove":
        return
    try:
        whole = join(Path(first), folder)
    except ValueError as error:
        sys.exit(str(error))
    for path in whole:
        sys.stdout.write(f"joined {path.name}: {path.stat().st_size / 1e6:,.1f} MB\n")


if __name__ == "__main__":
    main()
