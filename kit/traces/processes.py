"""Worker processes of a trace run: started together, watched, and gone when the run ends."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kit.traces.recipe import TraceRecipe
from kit.traces.worker import PARENT
from submission.logged import end_group, last_line, start_module

POLL_SECONDS = 0.5


class WorkerError(RuntimeError):
    """A worker ended before its share was done; what it finished is kept."""


def run_workers(
    recipe: TraceRecipe,
    out: Path,
    count: int,
    on_tick: Callable[[], None] = lambda: None,
    *,
    module: str = "kit.traces.worker",
    arguments: Sequence[str] = (),
) -> None:
    """Run `count` workers to their end, calling `on_tick` twice a second.

    Args:
        recipe: its engine says how many GPUs a worker needs.
        out: the run's folder; each worker's log lies there.
        module: what a worker is: `python -m MODULE OUT NUMBER ARGUMENTS...`.
        arguments: the same for all of them.

    Raises:
        WorkerError: one failed. The others are ended, too: the same command goes on where they were.
        ValueError: there are GPUs, but fewer than the workers need.
    """
    environments = _environments(recipe, count)
    with contextlib.ExitStack() as stack:
        running = {
            number: stack.enter_context(
                _worker(out, number, [module, str(out), str(number), *arguments], environments[number])
            )
            for number in range(count)
        }
        while running:
            for number, process in list(running.items()):
                code = process.poll()
                if code:
                    raise WorkerError(_why(out, number, code))
                if code == 0:
                    del running[number]
            on_tick()
            if running:
                time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _worker(
    out: Path, number: int, arguments: Sequence[str], environment: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    process = start_module(arguments, environment, _log(out, number))
    try:
        yield process
    finally:
        # A journal needs no farewell, so none is waited for.
        end_group(process)


def _log(out: Path, number: int) -> Path:
    return out / "work" / f"worker-{number:03d}.log"


def _why(out: Path, number: int, code: int) -> str:
    log = _log(out, number)
    last = last_line(log) or "it wrote nothing"
    return f"worker {number} ended with code {code}: {last} (all of it in {log})"


def _environments(recipe: TraceRecipe, count: int) -> list[dict[str, str]]:
    """One environment a worker: its own GPUs, or its own share of the CPU's cores."""
    package = str(Path(__file__).resolve().parents[2])
    base = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "PYTHONDONTWRITEBYTECODE": "1",
        PARENT: str(os.getpid()),
    }
    each = recipe.engine.tensor_parallel_size
    devices = _devices()
    if devices:
        if len(devices) < count * each:
            raise ValueError(
                f"--data-parallel {count} with {each} GPUs an engine needs {count * each} GPUs; this machine "
                f"shows {len(devices)}"
            )
        groups = [devices[number * each : (number + 1) * each] for number in range(count)]
        return [{**base, "CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]
    if count == 1:
        return [base]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    threads = {"OMP_NUM_THREADS": str(max(1, (len(cores) or os.cpu_count() or 1) // count))}
    environments = []
    for number in range(count):
        own = ",".join(map(str, cores[number::count])) or "nobind"
        # What the user set on purpose stays.
        environments.append({"VLLM_CPU_OMP_THREADS_BIND": own, **threads, **base})
    return environments


def _devices() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]
