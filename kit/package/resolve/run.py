"""Runs a resolver, shows its own words when it fails, and says which package failed where it can tell."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

from packaging.requirements import InvalidRequirement, Requirement

_UV_SOURCE_ONLY = re.compile(r"([A-Za-z0-9][\w.-]*)(?:==[\w.+!-]+)? has no (?:usable )?wheels")
_PIP_NONE = re.compile(r"No matching distribution found for ([^\s;]+)")


def run(
    command: Sequence[str],
    failure: str,
    environment: Mapping[str, str] | None = None,
    *,
    told: bool = True,
) -> None:
    """Run pip or uv; where it fails, what it says goes to the error stream, unless it is not to be `told`.

    Raises:
        ValueError: it failed; the message begins with `failure` and names the package at fault if it is one
            that comes as a source distribution only.
    """
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
        )
    except OSError as error:
        raise ValueError(f"{failure}: {command[0]} cannot be run ({error.strerror})") from None
    if done.returncode:
        if told:
            sys.stderr.write(done.stderr)
        culprits = source_only(done.stderr)
        if culprits:
            raise ValueError(
                f"{failure}: {', '.join(culprits)} comes as a source distribution only, which would be "
                "compiled at the contest; pin a version that has wheels in constraints.txt, or build a wheel "
                "of it and put it where pip and uv look (find-links)"
            )
        raise ValueError(
            f"{failure} (exit code {done.returncode}, its own words are above); check the network and the "
            "configuration of the index (CPU builds of torch come from a folder or index of their own), then "
            "run again: what was downloaded is kept"
        )


def source_only(words: str) -> list[str]:
    """Packages that a resolver's error blames and that the index has as source distributions only."""
    found = {match[1] for match in _UV_SOURCE_ONLY.finditer(words)}
    for match in _PIP_NONE.finditer(words):
        try:
            requirement = Requirement(match[1])
        except InvalidRequirement:
            continue
        if _offers(requirement, "--no-binary") and not _offers(requirement, "--only-binary"):
            found.add(requirement.name)
    return sorted(found)


def _offers(requirement: Requirement, kind: str) -> bool:
    """Whether the index has a file of that kind for the requirement; nothing is downloaded or built."""
    command = [sys.executable, "-P", "-m", "pip", "index", "versions", requirement.name]
    done = subprocess.run(
        [*command, f"{kind}=:all:", "--json"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        return False
    versions = json.loads(done.stdout)["versions"]
    return any(requirement.specifier.contains(version, prereleases=True) for version in versions)
