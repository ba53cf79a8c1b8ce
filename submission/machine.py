"""What this machine has: its GPUs, its memory, its cores, its Python."""

import contextlib
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
PROBE_SECONDS = 180.0
_DRIVER = Path("/proc/driver/nvidia/version")
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_PROBE = (
    "import json, torch; p = torch.cuda.get_device_properties; n = torch.cuda.device_count(); "
    "print(json.dumps([[p(i).name, p(i).total_memory] for i in range(n)]))"
)


@dataclass(frozen=True)
class Gpu:
    """An accelerator: its maker's name for it, and its memory in GiB."""

    name: str
    gib: float


@dataclass(frozen=True)
class Machine:
    """What the checks compare with the rules.

    Args:
        gpus: those that can be used; None where there is no NVIDIA driver at all.
        trouble: why a driver's GPUs cannot be used, "" if they can.
        memory: bytes.
        cores: that this process may use.
        python: "3.12".
    """

    gpus: tuple[Gpu, ...] | None
    trouble: str
    memory: int
    cores: int
    python: str


def this_machine(*, ask_torch: bool = True) -> Machine:
    """What this process can use."""
    gpus, trouble = find_gpus(ask_torch=ask_torch)
    cores = len(os.sched_getaffinity(0))
    major, minor, _ = platform.python_version_tuple()
    return Machine(gpus, trouble, machine_memory(), cores, f"{major}.{minor}")


def find_gpus(*, ask_torch: bool = True) -> tuple[tuple[Gpu, ...] | None, str]:
    """GPUs as torch sees them, or else as nvidia-smi does and why torch does not; None without a driver.

    torch is asked in a process of its own: it takes memory of each GPU that it looks at.
    """
    listed = _nvidia_smi()
    if listed is None and not _DRIVER.exists():
        return None, ""
    if not ask_torch:
        return listed or (), ""
    seen, trouble = _torch_gpus()
    return (seen, "") if seen else (listed or (), trouble)


def _nvidia_smi() -> tuple[Gpu, ...] | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_nvidia_smi(done.stdout)


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """GPUs out of lines `name, MiB`."""
    found = re.findall(r"^(.+?),\s*(\d+)\s*$", text, re.MULTILINE)
    return tuple(Gpu(name.strip(), int(mib) / 1024) for name, mib in found)


def _torch_gpus() -> tuple[tuple[Gpu, ...], str]:
    command = [sys.executable, "-P", "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return (), f"torch could not be asked: {error}"
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or [""]
    if done.returncode:
        return (), f"torch fails: {lines[-1][:300]}"
    gpus = tuple(Gpu(str(name), size / GIB) for name, size in json.loads(lines[-1]))
    return gpus, "" if gpus else "torch sees none: its build is for a CPU or for another driver"


def machine_memory() -> int:
    """Bytes of memory that this machine, or its container, has."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # another cgroup version, or "max"
            total = min(total, int(path.read_text(encoding="ascii")))
    return total


def give_gpu_back() -> None:
    """Leave to others what torch keeps of the GPU's memory for models that this process has let go of."""
    import torch

    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
