"""The quantizer's run in its own environment, and its weights put beside the original's other files."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from kit.package.quantize import load
from kit.package.quantize.environment import Say
from kit.package.quantize.job import Job
from kit.package.quantize.schemes import IGNORED
from submission.checkpoint import inspect, read_json
from submission.files import write_text
from submission.offline import SWITCHES
from submission.prm.heads import read_prm

NAMELESS = "re:^$"
"""vLLM gives the two layers of a Qwen2ForProcessRewardModel's head no name, and would quantize them: it then
reads scales that nobody wrote, and scores NaN."""
_WORKER = Path(__file__).with_name("worker.py")
_LAST_LINES = 12
"""Of the quantizer's own words, shown when it fails."""


def run_worker(job: Job, work: Path, python: Path, say: Say) -> dict[str, Any]:
    """Quantize in the other environment into `work`/raw; returns the worker's report.

    Raises:
        ValueError: it failed; with its last words.
    """
    write_text(work / "rows.json", json.dumps(job.rows))
    write_text(work / "spec.json", json.dumps(_specification(job, work)))
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables |= {**SWITCHES, "TQDM_DISABLE": "1"}
    if not load.has_gpu():
        # GPTQ's many small products are ten times slower with threads that wait for one another.
        variables.setdefault("OMP_NUM_THREADS", "1")
    say(f"quantizing to {job.scheme.name} ({job.scheme.preset}, {job.scheme.method})")
    report: dict[str, Any] | None = None
    with (work / "log.txt").open("w+b") as log:
        command = [str(python), "-I", "-B", str(_WORKER), str(work / "spec.json")]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=work,
            env=variables,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                message = json.loads(line)
                report = message.get("report", report)
                if "done" in message:
                    say(f"quantizing: layer {message['done']} of {message['total']}")
        log.seek(max(0, log.seek(0, os.SEEK_END) - 8_192))
        words = log.read().decode("utf-8", "replace").strip().splitlines()
    if process.returncode or report is None:
        raise ValueError(
            f"the quantizer failed on {job.base.folder} (exit code {process.returncode}); its last words:\n"
            + "\n".join(words[-_LAST_LINES:])
        )
    return report


def _specification(job: Job, work: Path) -> dict[str, Any]:
    """What `worker.py` reads."""
    kind = "token_classification" if job.prm and read_prm(job.base.folder).head != "logprob" else "causal"
    return {
        "model": str(job.base.folder.resolve()),
        "out": str((work / "raw").resolve()),
        "preset": job.scheme.preset,
        "method": job.scheme.method,
        "group_size": job.group,
        "ignore": list(IGNORED),
        "rows": str((work / "rows.json").resolve()),
        "layers": job.layers,
        "kind": kind,
    }


def collect(job: Job, raw: Path, made: Path) -> None:
    """The new weights with the original's other files; its configuration gains how to load them."""
    shards = sorted(raw.glob("*.safetensors"))
    if len(shards) == 1:
        shards[0].rename(made / "model.safetensors")
    else:
        for path in [*shards, raw / "model.safetensors.index.json"]:
            path.rename(made / path.name)
    base = job.base
    for name in (*base.files, *base.license_files, "README.md"):
        if not name.endswith((".safetensors", ".safetensors.index.json")) and (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, made / name)
    config = read_json(base.folder / "config.json")
    how = read_json(raw / "config.json")["quantization_config"]
    if job.prm and read_prm(base.folder).head == "process_reward":
        how["ignore"] = [*how["ignore"], NAMELESS]
    config["quantization_config"] = how
    write_text(made / "config.json", json.dumps(config, indent=2) + "\n")
    for path in made.iterdir():
        path.chmod(0o644)  # weights are written as 0600
    inspect(made, prm=job.prm)
