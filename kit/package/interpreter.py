"""The Python that a bundle is rehearsed with: its target's own, found on this machine."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit.package.targets import Target
from submission.bundle import Manifest

_QUESTION = "import pip, platform, sys; print(platform.python_version(), sys.executable)"


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
    """A Python of the target's version with pip: this one, else one on PATH.

    Raises:
        ValueError: there is none; the message lists what was looked at.
    """
    looked: list[str] = []
    for candidate in (sys.executable, shutil.which(f"python{target.python}"), shutil.which("python3")):
        if candidate is None:
            continue
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


def _ask(python: str) -> tuple[str, str]:
    """Version and path of an interpreter; ValueError where it cannot be run or has no pip."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _QUESTION], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"--python {python} cannot be run: {error}") from None
    if done.returncode:
        raise ValueError(
            f"--python {python} has no pip (run {python} -m ensurepip): {done.stderr.strip()[-200:]}"
        )
    version, _, path = done.stdout.strip().partition(" ")
    return version, path
