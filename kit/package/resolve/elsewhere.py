"""Resolving for a machine that this one is not: uv chooses for another Python, platform and C library.

pip evaluates environment markers for the interpreter that it runs in, so it cannot. What uv chose comes as a
lock file of the standard form (`pylock.toml`, PEP 751) with each wheel's size and hash; which package wants
which comes from uv's annotations in a second, offline pass over its cache.
"""

import os
import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from kit.package.resolve.lock import ASKED, Lock, Pin, best_wheel, canonical, checked
from kit.package.resolve.run import run
from kit.package.targets import Target

_ANNOTATED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)==\S+\s+#\s*via\s+(?P<parents>.+)")


def resolve_elsewhere(target: Target, needed: Sequence[str], constraints: Path, *, told: bool = True) -> Lock:
    """The wheels that uv chooses for `target`.

    Args:
        told: show uv's own words where it fails.

    Raises:
        ValueError: uv is not installed, or the requirements do not resolve to wheels; the message names the
            package.
    """
    try:
        from uv import find_uv_bin
    except ImportError:
        raise ValueError(
            f"target {target.name} is not this machine and needs uv: install `package`"
        ) from None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wanted, chosen = folder / "requirements.in", folder / "pylock.toml"
        wanted.write_text("\n".join(needed) + "\n", encoding="utf-8")
        common = [
            *(find_uv_bin(), "pip", "compile", "--quiet", "--only-binary", ":all:"),
            *("--python-version", target.python, "--python-platform", target.uv_platform),
        ]
        run(
            [*common, "--constraint", str(constraints), "--output-file", str(chosen), str(wanted)],
            f"uv could not resolve the wheels for {target.name}; a package may have wheels for a newer glibc "
            "only (Kaggle's image takes manylinux_2_35)",
            _environment(),
            told=told,
        )
        packages = tomllib.loads(chosen.read_text(encoding="utf-8")).get("packages", [])
        parents = _parents(common, wanted, packages, folder)
    return checked(target, (_pin(package, parents, target) for package in packages))


def _environment() -> dict[str, str]:
    # A Python of the target's version is not needed, and uv would try to download one.
    return {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}


def _parents(
    common: Sequence[str], wanted: Path, packages: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, set[str]]:
    """Canonical names of the packages that want each package."""
    pins, annotated = folder / "pins.txt", folder / "annotated.txt"
    lines = [f"{package['name']}=={package['version']}\n" for package in packages]
    pins.write_text("".join(lines), encoding="utf-8")
    command = [*common, "--offline", "--no-header", "--annotation-style", "line", "--constraint", str(pins)]
    run(
        [*command, "--output-file", str(annotated), str(wanted)],
        "uv could not tell which package wants which",
        _environment(),
    )
    return read_annotations(annotated.read_text(encoding="utf-8"))


def read_annotations(text: str) -> dict[str, set[str]]:
    """`name==1.0  # via other, -r requirements.in` as a mapping; `-r` is what was asked for, `-c` a pin."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        match = _ANNOTATED.fullmatch(line.strip())
        if not match:
            continue
        parents = found.setdefault(str(canonicalize_name(match["name"])), set())
        for parent in match["parents"].split(", "):
            if parent.startswith("-r "):
                parents.add(ASKED)
            elif not parent.startswith("-"):
                parents.add(str(canonicalize_name(parent.partition("[")[0])))
    return found


def _pin(package: Mapping[str, Any], parents: Mapping[str, set[str]], target: Target) -> Pin:
    name, version = str(canonicalize_name(package["name"])), package["version"]
    wheels = {_file(wheel): wheel for wheel in package.get("wheels", ())}
    best = best_wheel(wheels, target)
    if best is None:
        offered = ", ".join(sorted(wheels)) or "only a source distribution"
        raise ValueError(
            f"refused: {name} {version} has no wheel that runs on {target.name} (it has {offered}); pin "
            "another version in constraints.txt"
        )
    wheel = wheels[best]
    wanted = parents.get(name, set())
    asked = (ASKED,) if ASKED in wanted else ()
    wanted_by = (*asked, *canonical(wanted - {ASKED}))
    return Pin(name, version, best, wheel["hashes"]["sha256"], _size(wheel), wanted_by)


def _file(wheel: Mapping[str, Any]) -> str:
    return str(wheel.get("name") or unquote(Path(urlsplit(wheel["url"]).path).name))


def _size(wheel: Mapping[str, Any]) -> int | None:
    if "size" in wheel:
        return int(wheel["size"])
    address = urlsplit(wheel.get("url", ""))
    path = Path(unquote(address.path))
    return path.stat().st_size if address.scheme == "file" and path.is_file() else None
