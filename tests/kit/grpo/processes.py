"""Which processes of an engine there are, and whether they are gone."""

import contextlib
import time

import psutil


def gone(pids: set[int], seconds: float) -> bool:
    """Whether all of them end within the time; zombies have ended."""
    end = time.monotonic() + seconds
    left = pids
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = {pid for pid in left if _alive(pid)}
    return not left


def engine_of(trainer: int) -> set[int]:
    """vLLM's processes below it, just spawned or renamed already."""
    found = set()
    for child in psutil.Process(trainer).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(child.cmdline())
            if "spawn_main" in line or "VLLM" in line:
                found.add(child.pid)
    return found


def _alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False
