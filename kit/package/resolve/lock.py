"""A lock: the wheels chosen for a target, each with its file, SHA-256, size, and what wants it."""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from kit.package.targets import Target
from submission.files import write_text

ASKED = "(asked for)"
"""Stands for the project's own requirements among the packages that want another."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One chosen wheel.

    `name` is canonical, `size` in bytes (None where the index does not tell it), `wanted_by` the canonical
    names of the packages that ask for it, `ASKED` for the project itself.
    """

    name: str
    version: str
    file: str
    sha256: str
    size: int | None
    wanted_by: tuple[str, ...]

    @property
    def line(self) -> str:
        """As a line of a requirements file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True)
class Lock:
    """The choice for one target, sorted by name; names are unique."""

    target: str
    pins: tuple[Pin, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Pin]:
        """Pins by canonical name."""
        return {pin.name: pin for pin in self.pins}

    def path(self, name: str) -> tuple[str, ...]:
        """The shortest way from what was asked for to `name`, both included; only `name` if none is known."""
        before: dict[str, str] = {name: ""}
        waiting = deque([name])
        while waiting:
            current = waiting.popleft()
            if ASKED in self.by_name[current].wanted_by:
                return tuple(_steps(before, current))
            for parent in self.by_name[current].wanted_by:
                if parent in self.by_name and parent not in before:
                    before[parent] = current
                    waiting.append(parent)
        return (name,)

    def save(self, path: Path) -> None:
        """Write it as JSON, the same bytes for the same choice."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Lock":
        """Read what `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        pins = (Pin(**{**item, "wanted_by": tuple(item["wanted_by"])}) for item in data["pins"])
        return cls(data["target"], tuple(pins))


def _steps(before: Mapping[str, str], name: str) -> Iterable[str]:
    while name:
        yield name
        name = before[name]


def best_wheel(files: Iterable[str], target: Target) -> str | None:
    """Which of one version's wheels an installer on the target would take; None if none runs there."""
    order = {tag: place for place, tag in enumerate(target.ordered_tags)}
    ranked = []
    for file in files:
        try:
            _, _, build, tags = parse_wheel_filename(file)
        except InvalidWheelFilename:
            continue
        places = [order[tag] for tag in tags if tag in order]
        if places:
            ranked.append((min(places), -(build[0] if build else -1), file))
    return min(ranked)[2] if ranked else None


def checked(target: Target, pins: Iterable[Pin]) -> Lock:
    """The lock of these pins, once every wheel is one that runs on the target.

    Raises:
        ValueError: a file is a source distribution or a wheel for another machine, or of a build for CPUs
            where the target is CUDA; all of them are named.
    """
    found = tuple(sorted(pins, key=lambda pin: pin.name))
    sources = [pin for pin in found if not pin.file.endswith(".whl")]
    if sources:
        raise ValueError(_refusal(sources, "only as a source distribution, which would be compiled"))
    foreign = [pin for pin in found if best_wheel([pin.file], target) is None]
    if foreign:
        raise ValueError(_refusal(foreign, f"as a wheel that does not run on {target.name}"))
    # pip and uv rank `2.13.0+cpu` above the `2.13.0` that the index has.
    slow = [pin for pin in found if target.engine == "cuda" and Version(pin.version).local == "cpu"]
    if slow:
        raise ValueError(
            f"refused: {_named(slow)} is built for CPUs and the target is {target.name}; for this target "
            "keep the folder or index of CPU builds from pip and uv (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL, "
            "UV_FIND_LINKS, UV_INDEX)"
        )
    assert len({pin.name for pin in found}) == len(found), "a resolver chooses each package once"
    return Lock(target.name, found)


def _refusal(pins: Iterable[Pin], how: str) -> str:
    return (
        f"refused: {_named(pins)} came {how}; pin another version in constraints.txt, or build a "
        "wheel of it and put it where pip and uv look (find-links)"
    )


def _named(pins: Iterable[Pin]) -> str:
    return ", ".join(f"{pin.name} {pin.version} ({pin.file})" for pin in pins)


def canonical(names: Iterable[str]) -> tuple[str, ...]:
    """Canonical names, sorted, each once."""
    return tuple(sorted({str(canonicalize_name(name)) for name in names}))
