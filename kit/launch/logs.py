"""`python -m kit.launch logs JOB`: what a job, its ranks and its engines wrote, of its last start."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kit.launch.attempts import History, Plan, attempt_folder, log_folder
from kit.launch.records import JobRecord

_POLL = 0.5  # seconds
_CHUNK = 1 << 16


def files_of(record: JobRecord, rank: int | None = None) -> list[Path]:
    """Log files of a job: of one rank, or with None those of its own process.

    Raises:
        ValueError: it has not started yet, or there is no such rank; the message names those that there are.
    """
    if rank is None and not record.command:
        raise ValueError(
            f"job {record.job} was submitted by sbatch, whose --output says where its output is; "
            "--rank shows what its ranks wrote"
        )
    if rank is None:
        return [record.output, record.errors]
    folder = _last_start(record)
    by_rank = ranks_in(folder) if folder else {}
    if rank not in by_rank:
        known = ", ".join(str(number) for number in sorted(by_rank)) or "none: it has not come so far"
        raise ValueError(f"job {record.job} has no log of rank {rank} in its last start; there are {known}")
    return by_rank[rank]


def _last_start(record: JobRecord) -> Path | None:
    attempts = History.load(record.launch).attempts
    if not attempts:
        return None
    return attempt_folder(record.launch, attempts[-1].job, attempts[-1].restart)


def ranks_in(start: Path) -> dict[int, list[Path]]:
    """Log files of each rank of a start; torchrun names them <node>/.../attempt_0/<local rank>/stdout.log."""
    plan = Plan.read(start / "plan.json")
    found: dict[int, list[Path]] = {}
    first = 0
    for host in plan.trainers:
        local = {
            int(path.parent.name): sorted(path.parent.glob("std*.log"))
            for path in log_folder(start, host).glob("**/attempt_*/*/stdout.log")
        }
        found |= {first + number: paths for number, paths in sorted(local.items())}
        first += max(plan.spec.ranks_per_node, len(local))
    return found


def read(paths: list[Path]) -> Iterator[bytes]:
    """What is in the files, one after another; those that are not there yet are left out."""
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                while piece := file.read(_CHUNK):
                    yield piece


def follow(paths: list[Path], over: Callable[[], bool]) -> Iterator[bytes]:
    """What is in the files, and what is added to any of them until `over` says that nothing more will be."""
    files: dict[Path, BinaryIO] = {}
    try:
        while True:
            last = over()  # asked first: what was written before it is still read below
            for path in paths:
                if path not in files and path.is_file():
                    files[path] = path.open("rb")
                while path in files and (piece := files[path].read(_CHUNK)):
                    yield piece
            if last:
                return
            time.sleep(_POLL)
    finally:
        for file in files.values():
            file.close()
