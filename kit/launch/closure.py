"""What code a module can reach, so that a stage runs anew when its own code has changed, and no other's.

A file reaches whatever it imports, at any depth of its functions; what only types ask for does not count. A
string that is a module's name reaches it too: that is how a process of its own is started (`-m kit.traces`).
A package that is imported as a whole (`import submission`) is one that is copied: all of it counts.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = ("submission", "kit", "benchmarks")
ASIDE = ("kit/recipes", "benchmarks/figures.json")
"""Data that no stage reads by itself: a recipe counts where one names it, and figures are results."""


def code_of(root: Path, modules: Iterable[str]) -> list[Path]:
    """Files that these modules can reach below `root`, data of their packages too, relative and sorted.

    Args:
        modules: `kit.steps` or `kit.worked`; those that are not below `root` are left out.
    """
    found: set[Path] = set()
    waiting = [path for name in modules for path in _files(root, name)]
    data: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix != ".py":
            continue
        for name in _names(path, root, path.stat().st_mtime_ns):
            waiting += _files(root, name)
        if path.name != "__init__.py":
            data |= {path.parent}
    for folder in data:
        found.update(_data(root, folder))
    return sorted(path.relative_to(root) for path in found)


def code_digest(root: Path, modules: Iterable[str]) -> str:
    """SHA-256 of names and contents of `code_of`."""
    digest = hashlib.sha256()
    for path in code_of(root, modules):
        content = hashlib.sha256((root / path).read_bytes()).hexdigest()
        digest.update(f"{path.as_posix()}\0{content}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(root: Path, name: str) -> list[Path]:
    """A module's file; of a package its `__main__` too; and the packages above it, which are run with it.

    `name.*` is a whole package. Empty for a name that is no module here.
    """
    whole = name.endswith(".*")
    parts = name.removesuffix(".*").split(".")
    if parts[0] not in PACKAGES:
        return []
    place = root.joinpath(*parts)
    own = place.with_suffix(".py")
    if (place / "__init__.py").is_file():
        named = [place / "__init__.py", place / "__main__.py"]
        if whole:
            named = [path for path in place.rglob("*") if "__pycache__" not in path.parts]
    elif own.is_file():
        named = [own]
    else:
        return []
    above = [root.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts))]
    return [path for path in (*above, *named) if path.is_file()]


@functools.lru_cache(maxsize=4096)
def _names(path: Path, root: Path, _changed: int) -> tuple[str, ...]:
    """Names of modules, or of things within modules, that a file mentions."""
    return tuple(dict.fromkeys(_mentioned(ast.parse(path.read_bytes()), path.relative_to(root).parts[:-1])))


def _mentioned(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _for_types(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (f"{a.name}.*" if a.name in PACKAGES else a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and _is_module(node.value):
            yield str(node.value)


def _for_types(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _is_module(value: object) -> bool:
    """Whether a string may be a module's name."""
    if not isinstance(value, str):
        return False
    return value.partition(".")[0] in PACKAGES and value.replace(".", "").isidentifier()


def _data(root: Path, folder: Path) -> Iterator[Path]:
    """Files of a package that are no modules, in its folders that are no packages too."""
    for path in folder.iterdir():
        if path.relative_to(root).as_posix() in ASIDE or path.name == "__pycache__":
            continue
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            yield path
        elif path.is_dir() and not (path / "__init__.py").is_file():
            yield from _data(root, path)
