"""Resolving for this interpreter on this machine: pip chooses, so that its own configuration counts.

pip's installation report (`pip install --dry-run --report`) holds each wheel's address, hash and metadata.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kit.package.resolve.lock import ASKED, Lock, Pin, canonical, checked
from kit.package.resolve.run import run
from kit.package.targets import Target


def resolve_here(target: Target, needed: Sequence[str], constraints: Path, *, told: bool = True) -> Lock:
    """The wheels that pip would install into an empty environment of this interpreter.

    Args:
        told: show pip's own words where it fails.

    Raises:
        ValueError: the requirements do not resolve to wheels; the message names the package.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [
            *(sys.executable, "-P", "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"),
            *("--only-binary=:all:", "--report", str(report), "--constraint", str(constraints), *needed),
        ]
        run(command, f"pip could not resolve the wheels for {target.name}", told=told)
        content = json.loads(report.read_text(encoding="utf-8"))
    items = content["install"]
    parents = wanted_by(items, content["environment"], needed)
    with ThreadPoolExecutor(max_workers=8) as pool:
        sizes = list(pool.map(_size, (item["download_info"]["url"] for item in items)))
    return checked(target, (_pin(item, size, parents) for item, size in zip(items, sizes, strict=True)))


def wanted_by(
    items: Sequence[Mapping[str, Any]], environment: Mapping[str, str], needed: Iterable[str]
) -> dict[str, set[str]]:
    """For each package of pip's report, the packages that want it in this environment (`ASKED`: the project).

    Extras are followed from what is asked for: the report does not tell which of them a package came with.
    """
    metadata = {str(canonicalize_name(item["metadata"]["name"])): item["metadata"] for item in items}
    found: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(ASKED, Requirement(text)) for text in needed]
    while waiting:
        parent, requirement = waiting.pop()
        name = str(canonicalize_name(requirement.name))
        if name not in metadata:
            continue
        found.setdefault(name, set()).add(parent)
        for extra in {"", *requirement.extras} - {known for other, known in seen if other == name}:
            seen.add((name, extra))
            waiting += [(name, inner) for inner in _requirements(metadata[name], environment, extra)]
    return found


def _requirements(
    metadata: Mapping[str, Any], environment: Mapping[str, str], extra: str
) -> Iterable[Requirement]:
    for text in metadata.get("requires_dist", ()):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra}):
            yield requirement


def _size(url: str) -> int | None:
    """Bytes of a wheel, from the disk or the server's answer to HEAD; None where neither tells."""
    address = urlsplit(url)
    if address.scheme == "file":
        return Path(unquote(address.path)).stat().st_size
    try:
        with urlopen(Request(url, method="HEAD"), timeout=20) as answer:  # noqa: S310 - pip chose the address
            return int(answer.headers["Content-Length"])
    except (OSError, ValueError, TypeError):
        return None


def _pin(item: Mapping[str, Any], size: int | None, parents: Mapping[str, set[str]]) -> Pin:
    metadata, info = item["metadata"], item["download_info"]
    digest = info.get("archive_info", {}).get("hashes", {}).get("sha256")
    if digest is None:
        raise ValueError(f"pip gave no SHA-256 for {metadata['name']}; update pip (26 or later)")
    name = str(canonicalize_name(metadata["name"]))
    file = Path(unquote(urlsplit(info["url"]).path)).name
    wanted = parents.get(name, set())
    asked = (ASKED,) if ASKED in wanted else ()
    return Pin(name, metadata["version"], file, digest, size, (*asked, *canonical(wanted - {ASKED})))
