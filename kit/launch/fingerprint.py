"""What the result of a stage depends on, part by part, so that it can be said what has changed.

A stage's command or resolved recipe, the stages before it, the files that its words name, the code that it
can reach, and the installed packages. On how many nodes it runs is no part: the numbers are the same.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from kit.launch.closure import code_digest
from kit.launch.tasks import Task

_WHOLE = 64_000_000
"""Bytes up to which a file counts by its contents; a larger one by its size, its time and its ends."""
_END = 1 << 20
_MOST = 100_000
"""Files of a folder that is an input: with more it is a mistake."""
_ENTRIES = {
    "distill": ("kit.distill.phase",),
    "grpo": ("kit.grpo.phase",),
    "prm": ("kit.prm.phase",),
    "eval": ("submission",),
}
_OWN = "aimo-submission-kit"
Parts = dict[str, str]
"""Digests by what they are of: `settings`, `code`, `packages`, `file PATH`, `stage NAME`."""


def parts_of(
    task: Task, tasks: Mapping[str, Task], before: Mapping[str, str], root: Path, own: Path
) -> Parts:
    """What a task depends on.

    Args:
        own: folder of the pipeline's records, which are no input.
        tasks: all of the pipeline, by name: what lies in their folders is theirs to answer for.
        before: fingerprints of the tasks that it comes after, by name.
        root: of the code.

    Raises:
        ValueError: its recipe cannot be read, or it names a folder of too many files.
    """
    words = list(_words(task))
    folders = {name: other.out for name, other in tasks.items()}
    parts = {
        "settings": _digest(_neutral(json.dumps(words), folders)),
        "code": code_digest(root, entries_of(task)),
        "packages": packages_digest(),
    }
    parts |= {f"stage {name}": fingerprint for name, fingerprint in sorted(before.items())}
    made = [folder.absolute() for folder in (own, *folders.values())]
    for path in _named(words):
        if not any(path.absolute().is_relative_to(folder) for folder in made):
            parts[f"file {path}"] = path_digest(path)
    return parts


def fingerprint_of(parts: Parts) -> str:
    """One digest of all parts."""
    return _digest(json.dumps(parts, sort_keys=True))


def changed(before: Parts, now: Parts) -> list[str]:
    """Names of the parts that differ, in words."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return sorted(names, key=lambda name: (name.startswith("stage "), name))


def entries_of(task: Task) -> tuple[str, ...]:
    """Modules whose code a task runs: a phase's, or those behind each `-m` of a command."""
    if task.spec is not None:
        return _ENTRIES[task.spec.phase]
    return tuple(name for flag, name in itertools.pairwise(task.command) if flag == "-m")


@functools.cache
def packages_digest() -> str:
    """Of the interpreter's version and those of all installed packages, the kit's own aside."""
    read = (one.metadata for one in distributions())
    found = {(about["Name"] or "", about["Version"] or "") for about in read}
    return _digest(json.dumps([sys.version, sorted(pair for pair in found if pair[0] != _OWN)]))


def path_digest(path: Path) -> str:
    """Of a file's contents, or of all files below a folder with their names.

    Raises:
        ValueError: the folder has too many.
    """
    if path.is_file():
        return _file_digest(path)
    files = sorted(itertools.islice((one for one in path.rglob("*") if one.is_file()), _MOST + 1))
    if len(files) > _MOST:
        raise ValueError(f"{path} has over {_MOST:,} files: name what a stage reads more closely")
    return _digest(json.dumps([[str(one.relative_to(path)), _file_digest(one)] for one in files]))


def _file_digest(path: Path) -> str:
    about = path.stat()
    if about.st_size <= _WHOLE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256(f"{about.st_size} {about.st_mtime_ns}\n".encode())
    with path.open("rb") as file:
        digest.update(file.read(_END))
        file.seek(-_END, 2)
        digest.update(file.read())
    return digest.hexdigest()


def _words(task: Task) -> Iterator[str]:
    """What it is told: words of a command, or of a phase every setting of its resolved recipe."""
    if task.spec is None:
        yield from task.command
    elif task.spec.phase == "eval":
        yield from ("eval", *task.spec.overrides)
    else:
        yield task.spec.phase
        yield from _settings(task.spec.load_recipe().model_dump(mode="json"), "")


def _settings(values: Mapping[str, Any], above: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{above}{key}.")
        elif above or key != "out":
            yield f"{above}{key}={value if isinstance(value, str) else json.dumps(value)}"


def _named(words: Iterable[str]) -> list[Path]:
    """Files and folders that words name: whole, or behind `=` and between commas."""
    found: dict[Path, None] = {}
    for word in words:
        for text in (word, *re.split("[=,]", word)):
            path = Path(text)
            # A word too long to name a file, or one behind a closed door, names none.
            with contextlib.suppress(OSError):
                # A lone word such as `kit` or `demo` is none; a folder of the working folder is `./demo`.
                if text and (path.is_file() or ("/" in text and path.is_dir())):
                    found[path] = None
    return list(found)


def _neutral(text: str, folders: Mapping[str, Path]) -> str:
    """With names in place of the stages' folders: a pipeline that was moved is the same one."""
    for name, folder in sorted(folders.items(), key=lambda pair: -len(str(pair[1]))):
        text = text.replace(json.dumps(str(folder))[1:-1], f"${{{name}}}")
    return text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
