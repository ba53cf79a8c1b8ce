"""GRPO's engines on nodes of their own: what each such node starts, and whether all of them answer.

The last nodes of an allocation run `python -m kit.grpo.serve`, an engine for every tensor_parallel_size GPUs.
Each node leaves the addresses in the attempt's folder; the batch script, on a node that trains, connects to
all of them before any rank starts. An engine that dies ends its node's task, and with it this start.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kit.grpo.addresses import split_address
from kit.launch.attempts import Engines, Plan, log_folder, tell_end
from kit.launch.slurm import PORTS_A_JOB

if TYPE_CHECKING:
    from kit.grpo.recipe import GrpoRecipe

_POLL = 0.5
_END_SECONDS = 30.0
_TOLD_LINES = 3


def secret_file(attempt: Path) -> Path:
    """Where the secret of one start is."""
    return attempt / "secret"


def make_secret(attempt: Path) -> None:
    """A new one, that only its owner can read."""
    handle = os.open(secret_file(attempt), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32) + "\n")


def overrides(attempt: Path, addresses: Sequence[str]) -> tuple[str, ...]:
    """What the recipe is told of engines at these addresses."""
    return (
        "rollout.sampler=served",
        f"rollout.servers={json.dumps(list(addresses))}",
        f"rollout.secret_file={json.dumps(str(secret_file(attempt)))}",
    )


def load_recipe(plan: Plan) -> "GrpoRecipe":
    """The recipe without where its engines are, which a node that serves does not know."""
    from kit.grpo.recipe import GrpoRecipe

    recipe = plan.spec.load_recipe()
    assert isinstance(recipe, GrpoRecipe)
    return recipe


def devices(environment: Mapping[str, str], tensor_parallel_size: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each engine of this node; one that is empty where the job has no GPUs here.

    Raises:
        ValueError: the node's GPUs do not make whole engines, or more than there are ports for.
    """
    count = int(environment.get("SLURM_GPUS_ON_NODE") or 0)
    if not count:
        return [""]
    named = environment.get("CUDA_VISIBLE_DEVICES", "")
    gpus = named.split(",") if named else [str(index) for index in range(count)]
    size = tensor_parallel_size
    if len(gpus) % size:
        raise ValueError(
            f"{len(gpus)} GPUs on this node do not make engines of rollout.engine.tensor_parallel_size={size}"
        )
    engines = [",".join(gpus[start : start + size]) for start in range(0, len(gpus), size)]
    if len(engines) >= PORTS_A_JOB:
        raise ValueError(f"{len(engines)} engines on one node, at most {PORTS_A_JOB - 1} have a port")
    return engines


def command(recipe: "GrpoRecipe", address: str, secret: Path) -> list[str]:
    """`python -m kit.grpo.serve` as the recipe's engine section says, at this address."""
    host, port = split_address(address)
    engine = recipe.rollout.engine
    return [
        *(sys.executable, "-m", "kit.grpo.serve", "--once"),
        *("--model", recipe.model.path),
        *("--host", host, "--port", str(port), "--secret-file", str(secret)),
        *("--dtype", engine.dtype),
        *("--max-model-len", str(engine.max_model_len)),
        *("--max-num-seqs", str(engine.max_num_seqs)),
        *("--gpu-memory-utilization", str(engine.gpu_memory_utilization)),
        *("--tensor-parallel-size", str(engine.tensor_parallel_size)),
        *("--cpu-kv-cache-gib", str(engine.cpu_kv_cache_gib)),
    ]


def serve(attempt: Path, plan: Plan, host: str) -> int:
    """Start this node's engines and wait for them; returns 0 when the trainer was served to its end.

    When one ends otherwise, the others are ended, and why is left in the attempt's folder.
    """
    # Slurm's signals are for the ranks, which need the engines to end their step; engines inherit this.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM))
    recipe = load_recipe(plan)
    groups = devices(os.environ, recipe.rollout.engine.tensor_parallel_size)
    addresses = [f"{host}:{plan.port + 1 + index}" for index in range(len(groups))]
    logs = log_folder(attempt, host)
    logs.mkdir(parents=True, exist_ok=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for index, (address, group) in enumerate(zip(addresses, groups, strict=True)):
            environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": group} if group else {})}
            line = command(recipe, address, secret_file(attempt))
            with (logs / f"engine-{index}.log").open("wb") as log:
                running[address] = subprocess.Popen(line, stdout=log, stderr=log, env=environment)
        Engines(addresses=tuple(addresses)).write(attempt / "engines" / f"{host}.json")
        return _watch(attempt, host, running)
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        until = time.monotonic() + _END_SECONDS
        for process in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
            process.kill()


def _watch(attempt: Path, host: str, running: Mapping[str, "subprocess.Popen[bytes]"]) -> int:
    while True:
        codes = {address: process.poll() for address, process in running.items()}
        for index, (address, code) in enumerate(codes.items()):
            if code:
                how = f"died by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                log = log_folder(attempt, host) / f"engine-{index}.log"
                tell_end(attempt, f"engine-{host}", "failed", f"engine {address} {how}: {last_lines(log)}")
                return 1
        if not any(code is None for code in codes.values()):
            return 0
        time.sleep(_POLL)


def last_lines(log: Path) -> str:
    """The end of a log, in one line, and where the rest is."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    told = " | ".join([line for line in lines if line][-_TOLD_LINES:])
    return f"{told[-600:] or 'it said nothing'} ({log})"


def unanswered(attempt: Path, hosts: Sequence[str]) -> dict[str, str]:
    """Nodes and engines that do not answer yet, each with the reason. Empty when all do."""
    missing: dict[str, str] = {}
    for host in hosts:
        path = attempt / "engines" / f"{host}.json"
        if not path.exists():
            missing[f"node {host}"] = "it has not started its engines"
            continue
        for address in Engines.read(path).addresses:
            try:
                with socket.create_connection(split_address(address), timeout=5):
                    pass
            except OSError as error:
                missing[f"engine {address}"] = str(error)
    return missing


def addresses_of(attempt: Path, hosts: Sequence[str]) -> list[str]:
    """All engines' addresses, in the order of their nodes."""
    return [
        address for host in hosts for address in Engines.read(attempt / "engines" / f"{host}.json").addresses
    ]
