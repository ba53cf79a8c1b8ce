"""`python -m benchmarks.peers.pins`: the versions of every peer's environment, for Python 3.11 and 3.12.

uv resolves universally and prefers the versions of our own constraints.txt: what both sides have is of one
version, so that a ratio compares code and not releases. Run it after `make constraints`.
"""

import subprocess
import tempfile
from pathlib import Path

import typer

from benchmarks.peers.environments import ENVIRONMENTS, Environment
from kit.constraints import OVERLOOKED, OVERRIDES, ROOT
from submission.cli import run
from submission.files import write_text

HEADER = """\
# Versions of the peer environment `{name}`, for Python 3.11 and 3.12: {asks}
# with all that they need. Made by `python -m benchmarks.peers.pins`; do not edit.
"""

PYTHONS = ("3.11", "3.12")


def preferred() -> str:
    """Our own versions on this system, as lines of a requirements file.

    One a distribution, or one for each Python where they differ.
    """
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found: list[str] = []
    for pin in pins:
        pythons = [python for python in PYTHONS if pin.marker is None or pin.marker.evaluate(_of(python))]
        if pythons:
            marker = "" if pythons == list(PYTHONS) else f" ; python_version == '{pythons[0]}'"
            found.append(f"{pin.name}{pin.specifier}{marker}\n")
    return "".join(found)


def _of(python: str) -> dict[str, str]:
    """What markers ask of a Python's version."""
    return {"python_version": python, "python_full_version": f"{python}.0"}


def resolve(environment: Environment) -> list[str]:
    """Requirement lines for everything that the environment needs.

    Raises:
        ValueError: no set of versions satisfies everything; the message is the resolver's.
    """
    from uv import find_uv_bin

    with tempfile.TemporaryDirectory() as folder:
        asks, overrides = Path(folder) / "asks.in", Path(folder) / "overrides.txt"
        asks.write_text("\n".join(environment.asks) + "\n", encoding="utf-8")
        overrides.write_text("\n".join(OVERRIDES) + "\n", encoding="utf-8")
        # uv prefers the versions of an older output.
        pins = Path(folder) / "pins.txt"
        pins.write_text(preferred(), encoding="utf-8")
        command = [find_uv_bin(), "pip", "compile", str(asks), "--override", str(overrides), "--universal"]
        command += ["--python-version", "3.11", "--no-annotate", "--no-header", "--quiet"]
        command += ["--output-file", str(pins)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise ValueError(f"the environment {environment.name!r} does not resolve:\n{done.stderr.strip()}")
        found = pins.read_text(encoding="utf-8").splitlines()
    lines = [line for line in found if line and not line.startswith("#")]
    # What one of them overlooks, they overlook together: it follows the package that asks for it.
    followed = any(line.startswith("intel-openmp==") for line in lines)
    return sorted([*lines, *(OVERLOOKED if followed else ())])


def main() -> None:
    """Write the file of pins of every environment anew."""
    for environment in ENVIRONMENTS.values():
        header = HEADER.format(name=environment.name, asks=", ".join(environment.asks))
        write_text(environment.pins, header + "\n".join(resolve(environment)) + "\n")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run(app)
