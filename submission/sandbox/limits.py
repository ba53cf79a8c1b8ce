"""Resource limits of a worker: they hold on every Linux, for root too but for the number of processes."""

import resource
from pathlib import Path

MAX_FILES = 64
"""Open files at a time."""
MAX_CPU_SECONDS = 3600
"""Processor time between two clearings of the state: should nobody be left to end it, the kernel does."""


def limit_resources(memory_mb: int, disk_mb: int, max_processes: int | None) -> None:
    """Set the limits of this process and of all that it starts.

    Args:
        memory_mb: address space (MiB) beyond what the process holds now.
        disk_mb: MiB of one file.
        max_processes: processes and threads of this process's user; None leaves it.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    held = pages * resource.getpagesize()
    limits = [
        (resource.RLIMIT_AS, held + (memory_mb << 20)),
        (resource.RLIMIT_FSIZE, disk_mb << 20),
        (resource.RLIMIT_CPU, MAX_CPU_SECONDS),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ]
    if max_processes is not None:
        limits.append((resource.RLIMIT_NPROC, max_processes))
    for kind, amount in limits:
        _, hard = resource.getrlimit(kind)
        bound = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (bound, bound))
