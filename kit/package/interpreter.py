"""The Python that a bundle is rehearsed with: its target's own, found on this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kit.package.targets import Target
from submission.bundle import Manifest

_QUESTION = "import platform, sys; print(platform.python_version(), sys.executable, flush=True); import pip"


def why_not_here(target: Target) -> str | None:
    """Why a bundle for this target cannot be rehearsed on this machine; None where it can."""
    reason = target.why_not_this_machine()
    if reason or target.minor == sys.version_info.minor:
        return reason
    try:
        find_python(target)
    except ValueError:
        # What was looked at holds paths of this machine, and this goes into manifests.
        return f"this machine has no Python {target.python} with pip"
    return None


def check_runs_here(manifest: Manifest, python: str) -> str:
    """The full version of `python`, once the bundle's target fits it and this machine (else ValueError)."""
    target = check_machine(manifest.data)
    version, _ = _ask(python)
    if not version.startswith(f"{target.python}."):
        raise ValueError(
            f"the bundle is for Python {target.python} and {python} is {version}; name the right "
            "one with --python"
        )
    return version


def check_machine(manifest: Mapping[str, Any]) -> Target:
    """The bundle's target; ValueError where this machine cannot run it or there is nothing to install."""
    if manifest.get("wheels") is not True:
        raise ValueError(
            "the bundle was built with --no-wheels and cannot be installed; build it with its wheels"
        )
    target = Target.parse(str(manifest.get("target")))
    here = Target.local()
    if target.engine == "cuda" and not Path("/proc/driver/nvidia/version").exists():
        raise ValueError(
            f"the bundle is for {target.name} and this machine has no NVIDIA driver; "
            "rehearse it on a machine of its target"
        )
    if (target.machine, target.glibc) > (here.machine, here.glibc) or target.machine != here.machine:
        raise ValueError(f"the bundle is for {target.name}, newer than this machine ({here.name})")
    return target


def find_python(target: Target) -> str:
    """A Python of the target's version with pip: this one, else the first of those on PATH.

    Raises:
        ValueError: there is none; the message lists what was looked at.
    """
    looked: list[str] = []
    for candidate in _candidates(target):
        try:
            version, path = _ask(candidate)
        except ValueError as error:
            looked.append(str(error))
            continue
        if version.startswith(f"{target.python}."):
            return path
        looked.append(f"{candidate} is {version}")
    raise ValueError(
        f"NOT rehearsed: the bundle is for Python {target.python} and this machine has none with pip "
        f"({'; '.join(looked)}); install one and name it with --python"
    )


def _candidates(target: Target) -> Iterator[str]:
    """This interpreter, then each on PATH: the first of its name may be a version manager's shim for none."""
    yield sys.executable
    for name in (f"python{target.python}", "python3"):
        for folder in dict.fromkeys(os.get_exec_path()):
            found = shutil.which(name, path=folder)
            if found:
                yield found


def _ask(python: str) -> tuple[str, str]:
    """Version and path of an interpreter; ValueError where it cannot be run or has no pip."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _QUESTION], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"--python {python} cannot be run: {error}") from None
    if not done.stdout:
        said = done.stderr.strip().partition("\n")[0]
        raise ValueError(f"--python {python} cannot be run (exit code {done.returncode}): {said[:200]}")
    if done.returncode:
        raise ValueError(
            f"--python {python} has no pip (run {python} -m ensurepip): {done.stderr.strip()[-200:]}"
        )
    version, _, path = done.stdout.strip().partition(" ")
    return version, path
