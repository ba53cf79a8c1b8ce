"""How ranks write one checkpoint together, through files alone.

Every rank writes its files and then its report; rank 0 waits for all reports, writes the manifest and renames
the folder; the others wait for that. No collective operation, so a thread can do it while training goes on.
"""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from kit.training.checkpoint_files import (
    CheckpointError,
    Damaged,
    FileEntry,
    Manifest,
    RankReport,
    check_sizes,
    data_name,
    publish,
    read_manifest,
    read_report,
    remove,
    report_name,
    step_folder,
    steps_in,
    sync_folder,
    write_manifest,
    write_tensors,
)
from submission.files import write_text

if TYPE_CHECKING:
    import torch

_SPARE_BYTES = 1 << 20  # headers, reports, the manifest
_LONGEST_POLL = 0.5  # seconds


@dataclass
class Save:
    """One save, from its check to its commit. `bytes` is this rank's share."""

    step: int
    token: str
    """Of this very save, the same on all ranks: attempt and count."""
    state: dict[str, JsonValue]
    metric: float | None
    bytes: int
    folder: Path
    """Under construction."""
    tensors: "dict[str, torch.Tensor]" = field(default_factory=dict)
    rank_state: "dict[str, torch.Tensor]" = field(default_factory=dict)
    reported: bool = False
    """From here on rank 0 may commit this rank's files, so they must stay."""


class Committer:
    """One rank's part in writing checkpoints to `folder`."""

    def __init__(
        self, folder: Path, rank: int, world_size: int, identity: dict[str, JsonValue], timeout: float
    ) -> None:
        self._folder = folder
        self._rank, self._world_size = rank, world_size
        self._identity = identity
        self._timeout = timeout

    def prepare(
        self,
        job: Save,
        tensors: "Mapping[str, torch.Tensor]",
        rank_state: "Mapping[str, torch.Tensor]",
        *,
        copy: bool,
    ) -> None:
        """Check the free space and take the tensors, as copies if asked. Raises as `write` does."""
        with self._giving_up(job):
            self._check_space(job)
            job.tensors = _on_cpu(tensors, copy=copy)
            job.rank_state = _on_cpu(rank_state, copy=copy)

    def write(self, job: Save) -> None:
        """Return when the checkpoint is committed. CheckpointError where it fails here or on another rank."""
        with self._giving_up(job):
            self._write_share(job)
            if self._rank == 0:
                self._commit(job)
            else:
                self._await_commit(job)

    def _check_space(self, job: Save) -> None:
        """Only this rank's share: how much the others need on the same disk is not known here."""
        free = shutil.disk_usage(_existing(self._folder)).free
        if free < job.bytes + _SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write_share(self, job: Save) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, FileEntry] = {}
        names = sorted(job.tensors)
        for kind, tensors in (("shard", job.tensors), ("state", job.rank_state)):
            name = data_name(kind, self._rank, self._world_size)  # type: ignore[arg-type]
            files[name] = write_tensors(job.folder / name, tensors)
            tensors.clear()  # the copy's memory goes back before the others are waited for
        sync_folder(job.folder)
        report = RankReport(names=names, files=files)
        job.reported = True
        write_text(job.folder / report_name(self._rank, self._world_size), report.model_dump_json() + "\n")

    def _commit(self, job: Save) -> None:
        reports = self._await_reports(job)
        owner: dict[str, int] = {}
        files: dict[str, FileEntry] = {}
        for rank, report in enumerate(reports):
            files |= report.files
            for name in report.names:
                if name in owner:
                    raise CheckpointError(f"ranks {owner[name]} and {rank} both wrote tensor {name!r}")
                owner[name] = rank
        manifest = Manifest(
            step=job.step,
            world_size=self._world_size,
            token=job.token,
            identity=self._identity,
            metric=job.metric,
            state=job.state,
            files=files,
        )
        try:
            check_sizes(job.folder, manifest)
        except Damaged as error:
            raise CheckpointError(str(error)) from None
        write_manifest(job.folder, manifest)
        publish(job.folder, step_folder(self._folder, job.step))

    def _await_reports(self, job: Save) -> list[RankReport]:
        found: dict[int, RankReport] = {}
        for _ in self._polls():
            # Listing, not opening by name: a network file system remembers "there is no such name".
            present = set(os.listdir(job.folder))  # noqa: PTH208 - names only
            for rank in range(self._world_size):
                name = report_name(rank, self._world_size)
                if rank not in found and name in present and (report := read_report(job.folder / name)):
                    found[rank] = report
            if len(found) == self._world_size:
                return [found[rank] for rank in range(self._world_size)]
            self._check_others(job)
        missing = ", ".join(str(rank) for rank in range(self._world_size) if rank not in found)
        raise CheckpointError(f"nothing came from rank {missing} within {self._timeout:g} s")

    def _await_commit(self, job: Save) -> None:
        for _ in self._polls():
            if job.step in steps_in(self._folder):
                with contextlib.suppress(Damaged):
                    if read_manifest(step_folder(self._folder, job.step)).token == job.token:
                        return
            self._check_others(job)
        raise CheckpointError(f"rank 0 did not commit it within {self._timeout:g} s")

    def _polls(self) -> Iterator[None]:
        """Ever slower turns, until the time is up; one turn at least."""
        deadline = time.monotonic() + self._timeout
        pause = 0.01
        while True:
            yield
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_POLL)

    def _check_others(self, job: Save) -> None:
        if reason := self._failure(job):
            raise CheckpointError(reason)

    def _failure(self, job: Save) -> str | None:
        """Why another rank has given up, if one has. A commit may move the folder away at any moment."""
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(job.folder)):  # noqa: PTH208 - names only
                if name.startswith("failed-") and name.endswith(".txt") and name != self._note:
                    return (job.folder / name).read_text(encoding="utf-8")
        return None

    @property
    def _note(self) -> str:
        return f"failed-{self._rank:05d}.txt"

    @contextlib.contextmanager
    def _giving_up(self, job: Save) -> Iterator[None]:
        """If the block raises, remove what it wrote, tell the other ranks, and say what happened where."""
        from safetensors import SafetensorError

        try:
            yield
        except BaseException as error:
            free = shutil.disk_usage(_existing(self._folder)).free
            code = _error_code(error)
            cause = f"{os.strerror(code)}, {free} bytes free" if code == errno.ENOSPC else str(error)
            with contextlib.suppress(OSError):
                cause = self._failure(job) or f"rank {self._rank}: {cause or type(error).__name__}"
                self._clean(job, cause)
            job.tensors.clear()
            job.rank_state.clear()
            if not isinstance(error, OSError | SafetensorError):
                raise
            raise CheckpointError(
                f"the checkpoint of step {job.step} was not written to {self._folder}: "
                f"{cause} ({job.bytes} bytes to write on this rank). Earlier checkpoints are untouched",
                code,
            ) from error

    def _clean(self, job: Save, note: str) -> None:
        """Remove a failed save. A note stays for the other ranks, until the next start or commit."""
        if self._rank == 0:
            remove(job.folder)
        elif not job.reported:
            for kind in ("shard", "state"):
                name = data_name(kind, self._rank, self._world_size)
                (job.folder / name).unlink(missing_ok=True)
        if self._world_size > 1:
            write_text(job.folder / self._note, note)


def _on_cpu(tensors: "Mapping[str, torch.Tensor]", *, copy: bool) -> "dict[str, torch.Tensor]":
    """Contiguous CPU tensors that share no storage, bit for bit; with `copy` none shares the caller's."""
    import torch

    placed: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        source = tensor.detach()
        if not copy and source.device.type == "cpu" and source.is_contiguous() and not source.is_conj():
            storage = source.untyped_storage().data_ptr()
            if storage not in storages:
                storages.add(storage)
                placed[name] = source
                continue
        placed[name] = torch.empty(source.shape, dtype=source.dtype, device="cpu").copy_(source)
    return placed


def _error_code(error: BaseException) -> int | None:
    """The system's error number; safetensors has it in its text only."""
    if isinstance(error, OSError):
        return error.errno
    if f"(os error {errno.ENOSPC})" in str(error):
        return errno.ENOSPC
    return None


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
