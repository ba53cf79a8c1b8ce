"""Speed of building and verifying a bundle, against `cp -r` and `sha256sum` over the same files in one run.

    python -m benchmarks.package [--gigabytes 2] [--repeats 3] [--folder DIR]

Each repeat runs the peers and ours in turn, so that a change of load meets all of them. What is still to be
written to the disk is written before each step (not timed): otherwise the second writer waits for the first.
The build is the whole command in a process of its own, Python's start and the check of the checkpoint
included; it has no wheels, which would be copied in the same way. The ratios are those of the medians.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from submission.cli import run
from submission.files import write_text

ROOT = Path(__file__).resolve().parent.parent
BUILD_LIMIT = 1.5
VERIFY_LIMIT = 0.6
BUILD, VERIFY = "build / (cp -r + sha256sum)", "verify / sha256sum on one core"
SHARD_BYTES = 1 << 29


def make_checkpoint(folder: Path, size: int) -> None:
    """Write a checkpoint of about `size` bytes of random bf16 weights in shards of 512 MiB."""
    folder.mkdir(parents=True)
    count = max(1, -(-size // SHARD_BYTES))
    names = [f"model-{index + 1:05}-of-{count:05}.safetensors" for index in range(count)]
    weight_map = {}
    for index, name in enumerate(names):
        tensor, data_size = f"model.layers.{index}.weight", size // count // 2 * 2
        header = {tensor: {"dtype": "BF16", "shape": [data_size // 2], "data_offsets": [0, data_size]}}
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        with (folder / name).open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            left = data_size
            while left:
                left -= file.write(os.urandom(min(left, 16 << 20)))
        weight_map[tensor] = name
    texts = {
        "config.json": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        "tokenizer.json": {"version": "1.0"},
        "tokenizer_config.json": {"chat_template": "{{ messages[0].content }}"},
        "model.safetensors.index.json": {"weight_map": weight_map},
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def call(*command: str | Path) -> None:
    """Run a command from the repository's root; its output is dropped, a failure is an error."""
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def sha256sum(folder: Path) -> None:
    """The peer: one process, one core, every file in order."""
    tool = _tool("sha256sum")
    call(tool, *sorted(path for path in folder.rglob("*") if path.is_file()))


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ValueError(f"the benchmark compares with {name}, which is not installed")
    return path


def coreutils_version() -> str:
    """What `cp` says of itself; empty for a `cp` that says nothing."""
    done = subprocess.run([_tool("cp"), "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].rpartition(" ")[2]


def measure(folder: Path, size: int, repeats: int, console: Console) -> dict[str, list[float]]:
    """Wall seconds of each step for each repeat."""
    model, copy, bundle = folder / "model", folder / "copy", folder / "bundle"
    with console.status(f"writing a random checkpoint of {size / 1e9:.1f} GB"):
        make_checkpoint(model, size)
    package = [sys.executable, "-m", "kit.package"]
    build = [*package, "--model", str(model), "--out", str(bundle), "--no-wheels"]
    # Random weights have no licence that a contest could judge.
    build += ["--allow-dirty", "--contest", "none"]
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        os.sync()
        times.setdefault(name, []).append(seconds(work))
        console.print(f"{name}: {times[name][-1]:.2f} s", highlight=False)

    for _ in range(repeats):
        for leftover in (copy, bundle):
            shutil.rmtree(leftover, ignore_errors=True)
        timed("cp -r", lambda: call(_tool("cp"), "-r", model, copy))
        timed("sha256sum of the copy", lambda: sha256sum(copy))
        timed("build", lambda: call(*build))
        timed("sha256sum of the bundle", lambda: sha256sum(bundle))
        timed("verify", lambda: call(*package, "verify", bundle))
    return times


def middle(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Median seconds of each step."""
    return {name: statistics.median(found) for name, found in times.items()}


def ratios_of(times: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Our time over the peer's, with its limit: the ratio of medians, and each repeat's."""
    peers = {
        BUILD: [sum(pair) for pair in zip(times["cp -r"], times["sha256sum of the copy"], strict=True)],
        VERIFY: times["sha256sum of the bundle"],
    }
    seconds = middle(times)
    ratios = {
        BUILD: seconds["build"] / (seconds["cp -r"] + seconds["sha256sum of the copy"]),
        VERIFY: seconds["verify"] / seconds["sha256sum of the bundle"],
    }
    return [
        {
            "name": name,
            "ratio": ratios[name],
            "limit": limit,
            "each": [ours / theirs for ours, theirs in zip(times[side], peers[name], strict=True)],
        }
        for name, side, limit in ((BUILD, "build", BUILD_LIMIT), (VERIFY, "verify", VERIFY_LIMIT))
    ]


def main(
    gigabytes: Annotated[float, typer.Option(min=0.01, help="Size of the random checkpoint.")] = 2.0,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    folder: Annotated[
        Path | None, typer.Option(help="Where to work; three times the size is needed.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure and print; exit code 1 where a ratio is over its limit."""
    console = Console()
    size = int(gigabytes * 1e9)
    with tempfile.TemporaryDirectory(prefix="aimo-benchmark-", dir=folder) as scratch:
        free = shutil.disk_usage(scratch).free
        if free < 3.2 * size:
            raise ValueError(f"{scratch} has {free / 1e9:.1f} GB free; {3.2 * size / 1e9:.1f} GB are needed")
        times = measure(Path(scratch), size, repeats, console)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    ratios = ratios_of(times)
    table = Table("ratio of medians", "measured", "limit", title=f"{gigabytes:g} GB, {repeats} repeats")
    for row in ratios:
        style = "red" if row["ratio"] > row["limit"] else ""
        table.add_row(row["name"], f"{row['ratio']:.2f}", f"{row['limit']:.2f}", style=style)
    table.add_row("largest process (MiB)", f"{peak:.0f}", "")
    console.print(table)
    if json_path:
        figures = {"gigabytes": gigabytes, "repeats": repeats, "seconds": times, "peak_mib": peak}
        figures |= {"ratios": ratios, "versions": {"coreutils": coreutils_version()}}
        write_text(json_path, json.dumps(figures, indent=2) + "\n")
    if any(row["ratio"] > row["limit"] for row in ratios):
        raise typer.Exit(1)


if __name__ == "__main__":
    run(lambda: typer.run(main))
