"""Checkpoints that any number of ranks can read, written atomically to a shared file system.

Every rank writes its own share of the named tensors; rank 0 waits for all of them through files alone (no
collective operation, so a thread can do it while training goes on), writes the manifest and renames the
folder. A checkpoint is there as a whole or not at all, whenever a rank is killed. Safetensors and JSON only.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pydantic import JsonValue

from kit.training.checkpoint_commit import Committer, Save
from kit.training.checkpoint_files import (
    Checkpoint,
    CheckpointError,
    Damaged,
    Manifest,
    check_hashes,
    check_sizes,
    hidden_in,
    publish,
    read_manifest,
    remove,
    step_folder,
    steps_in,
    strict_json,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "CheckpointError", "CheckpointStore"]

log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run, in `folder`.

    Make one on every rank, then have the ranks meet (a barrier) before `latest` or `open`: rank 0 tidies up
    first. All ranks call `save` with the same steps in the same order.

    Args:
        folder: on a file system that all ranks share.
        identity: what makes this run this run (digest of the recipe, of the data, ...). A checkpoint of
            another identity is refused.
        keep_last: so many newest checkpoints stay.
        keep_best: and so many with the best metric.
        asynchronous: write in a thread, from a copy in CPU memory. The thread is a daemon: call `wait`
            before the process ends.
        commit_timeout: seconds a rank waits for the others' files before it is an error.
        attempt: a text that is the same on all ranks and that no earlier start of this run had, such as a
            random number broadcast from rank 0. It keeps the leftovers of a killed start apart. One rank
            alone makes its own.

    Raises:
        ValueError: `attempt` is missing for several ranks, or another process writes to `folder`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rank: int,
        world_size: int,
        identity: Mapping[str, JsonValue],
        keep_last: int,
        keep_best: int,
        lower_is_better: bool,
        asynchronous: bool,
        commit_timeout: float,
        attempt: str = "",
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"checkpoints: rank {rank} of {world_size} ranks does not exist")
        if keep_last < 1 or keep_best < 0:
            raise ValueError(f"checkpoints: keep_last={keep_last} must be 1 or more, keep_best={keep_best} 0")
        if world_size > 1 and not attempt:
            raise ValueError("checkpoints: several ranks need a common `attempt`, new at each start")
        self.folder = Path(folder)
        self._rank, self._world_size = rank, world_size
        self._identity: dict[str, JsonValue] = json.loads(strict_json(dict(identity), "identity"))
        self._keep_last, self._keep_best, self._lower_is_better = keep_last, keep_best, lower_is_better
        self._asynchronous = asynchronous
        self._committer = Committer(self.folder, rank, world_size, self._identity, commit_timeout)
        seed = attempt or os.urandom(16).hex()
        self._attempt = hashlib.sha256(seed.encode()).hexdigest()[:12]
        self._count = 0
        self._saved: int | None = None
        self._damaged: set[int] = set()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._lock: IO[bytes] | None = None
        if rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            self._recover()

    def save(
        self,
        step: int,
        tensors: "Mapping[str, torch.Tensor]",
        state: Mapping[str, JsonValue],
        rank_state: "Mapping[str, torch.Tensor]",
        metric: float | None,
    ) -> None:
        """Save what belongs to `step`; with `asynchronous` return as soon as it is copied.

        Waits for the commit of the previous save first. A step that this store saved last is not saved again.

        Args:
            tensors: this rank's share; the ranks' names are disjoint and their union is everything.
            state: rank 0's counts; the other ranks' is not used.
            rank_state: what only this rank needs, and only if the number of ranks stays.
            metric: for `keep_best`; None or a number that is not finite is no candidate.

        Raises:
            ValueError: `state` is not JSON.
            CheckpointError: the disk is full, a rank is missing, or a file could not be written (also one of
                the previous save). The last good checkpoint is untouched.
        """
        self._count += 1
        text = strict_json(dict(state), f"state of step {step}")
        self.wait()
        if step == self._saved:
            return
        token = f"{self._attempt}-{self._count}"
        size = sum(t.numel() * t.element_size() for part in (tensors, rank_state) for t in part.values())
        job = Save(
            step=step,
            token=token,
            state=json.loads(text),
            metric=metric if metric is not None and math.isfinite(metric) else None,
            bytes=size,
            folder=self.folder / f".step-{step:08d}.tmp-{token}",
        )
        self._committer.prepare(job, tensors, rank_state, copy=self._asynchronous)
        if self._asynchronous:
            target = self._write_in_thread
            self._thread = threading.Thread(target=target, args=(job,), name="checkpoint", daemon=True)
            self._thread.start()
        else:
            self._write(job)

    def wait(self) -> None:
        """Return when the last save is committed, on every rank; raise what went wrong in the thread."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Let another process write to the folder. Does not wait for a save."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose every file has the size and SHA-256 it was written with.

        It reads all files: with many ranks, call it on rank 0 and `open` the step on the others. A damaged
        checkpoint is passed over with a warning, once.

        Raises:
            ValueError: the checkpoints are another run's, or there are some and none is good.
        """
        steps = steps_in(self.folder)
        for step in reversed(steps):
            if step in self._damaged:
                continue
            try:
                checkpoint, manifest = self._read(step)
                check_hashes(checkpoint.path, manifest)
            except Damaged as error:
                self._damaged.add(step)
                log.warning(
                    "checkpoint %s is damaged and not used: %s", step_folder(self.folder, step), error
                )
            else:
                return checkpoint
        if steps:
            raise ValueError(
                f"{self.folder}: none of the {len(steps)} checkpoints is good (the log says why): choose "
                f"another `out`, or delete {self.folder} to start over"
            )
        return None

    def open(self, step: int) -> Checkpoint:
        """The checkpoint of `step`, which some rank has verified: only sizes are checked here.

        Raises:
            ValueError: it is not there, not complete, or another run's.
        """
        try:
            return self._read(step)[0]
        except Damaged as error:
            raise ValueError(f"checkpoint {step_folder(self.folder, step)}: {error}") from None

    def refuse_existing(self) -> None:
        """For a run that is not to resume. ValueError if there are checkpoints it would replace."""
        if steps := steps_in(self.folder):
            raise ValueError(
                f"{self.folder} holds checkpoints up to step {steps[-1]} and checkpoint.resume is false: "
                f"choose another `out`, delete the folder, or set checkpoint.resume=true"
            )

    def _read(self, step: int) -> tuple[Checkpoint, Manifest]:
        path = step_folder(self.folder, step)
        manifest = read_manifest(path)
        if manifest.step != step:
            raise Damaged(f"its manifest is that of step {manifest.step}")
        _check_identity(path, manifest.identity, self._identity)
        check_sizes(path, manifest)
        found = Checkpoint(
            path=path,
            step=step,
            world_size=manifest.world_size,
            state=manifest.state,
            metric=manifest.metric,
            readers=self._world_size,
        )
        return found, manifest

    def _write_in_thread(self, job: Save) -> None:
        try:
            self._write(job)
        except BaseException as error:  # noqa: BLE001 - `wait` raises it where someone listens
            self._error = error

    def _write(self, job: Save) -> None:
        self._committer.write(job)
        self._damaged.discard(job.step)
        self._saved = job.step
        if self._rank == 0:
            self._retain(job.step)

    def _recover(self) -> None:
        """Finish or remove what a killed start left; what this start's faster ranks have begun stays."""
        for path, step, kind, attempt in hidden_in(self.folder):
            if attempt == self._attempt:
                continue
            if kind == "tmp":
                with contextlib.suppress(Damaged):
                    read_manifest(path)
                    publish(path, step_folder(self.folder, step))
                    continue
            remove(path)
        # What `publish` just moved aside.
        for path, _, kind, attempt in hidden_in(self.folder):
            if kind == "old" and attempt != self._attempt:
                remove(path)

    def _retain(self, step: int) -> None:
        """Delete what the policy does not keep, now that `step` is committed. Later steps are left alone:
        they are damaged ones that training has gone back behind and will replace.
        """
        steps = [found for found in steps_in(self.folder) if found <= step]
        good = [found for found in steps if found not in self._damaged]
        keep = {step, *good[-self._keep_last :]}
        rated: list[tuple[float, int]] = []
        for found in good if self._keep_best else []:
            with contextlib.suppress(Damaged):
                metric = read_manifest(step_folder(self.folder, found)).metric
                if metric is not None:
                    rated.append((-metric if self._lower_is_better else metric, found))
        keep |= {found for _, found in sorted(rated, reverse=True)[: self._keep_best]}
        try:
            for found in steps:
                if found not in keep:
                    hidden = f".step-{found:08d}.old-{self._attempt}-{self._count}"
                    step_folder(self.folder, found).rename(self.folder / hidden)
            # Not those of later steps: a faster rank may have seen the commit and begun its next share.
            done = [path for path, at, kind, _ in hidden_in(self.folder) if kind == "old" or at <= step]
            leftovers = [path for path in done if not remove(path)]
        except OSError as error:
            log.warning("old checkpoints in %s could not be deleted: %s", self.folder, error)
        else:
            if leftovers:
                log.warning("could not be deleted, will be tried again: %s", ", ".join(map(str, leftovers)))


def refuse_another_run(folder: Path, identity: Mapping[str, JsonValue]) -> None:
    """Raise ValueError if the newest readable checkpoint there is another run's: known before loading."""
    for step in reversed(steps_in(folder) if folder.is_dir() else []):
        path = step_folder(folder, step)
        with contextlib.suppress(Damaged):
            theirs = read_manifest(path).identity
            _check_identity(path, theirs, json.loads(strict_json(dict(identity), "identity")))
            return


def _check_identity(path: Path, theirs: Mapping[str, JsonValue], ours: Mapping[str, JsonValue]) -> None:
    differing = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
    if differing:
        listed = "; ".join(
            f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here" for key in differing
        )
        raise ValueError(
            f"checkpoint {path} is another run's: {listed}. Choose another `out`, or delete {path.parent} to "
            "start over"
        )


def _lock(folder: Path) -> IO[bytes] | None:
    """Hold the folder while this process lives: a POSIX lock goes with its process, and no fork has it."""
    file = (folder / ".lock").open("wb")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in {errno.EACCES, errno.EAGAIN}:
            raise ValueError(
                f"{folder}: another process writes checkpoints there; stop it, or choose another `out`"
            ) from None
        return None  # a file system without locks
    return file
