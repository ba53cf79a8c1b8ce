"""The model that the policy is kept close to: the start, or the policy as it was some steps ago.

On disk: an export for each checkpoint that may be resumed from and goes on with one, at most `keep_last` +
`keep_best` of them, and, while the run goes on, that of the step at hand and of the period before.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

from kit.training.checkpoint_files import hidden_in, remove, steps_in

log = logging.getLogger(__name__)

_FOLDER = re.compile(r"step-(\d{8,})")


@dataclass
class Reference:
    """Gives the frozen model of a step.

    Args:
        start: the wrapped model at the start, frozen; None where it is the trained one without adapters.
        trained: the module that is trained.
        adapted: the PEFT model inside it, whose adapters are switched off for the start's model.
        every: steps after which the policy becomes the reference; 0 never.
        keep: exports the policy as it is to a folder. Collective.
        load: the frozen model of a folder. Collective.
        folder: of these exports.
        resumable: the steps (done) of checkpoints that a run may go on from; on the rank that deletes exports
            which none of them needs. None on the others.
    """

    start: InitVar[Any]
    trained: Any
    adapted: Any
    every: int
    keep: Callable[[Path], None]
    load: Callable[[Path], Any]
    folder: Path
    resumable: Callable[[], Collection[int]] | None = None
    _held: tuple[int, Any] = field(init=False)
    """The step that a frozen model is of, and the model: one at a time in memory."""

    def __post_init__(self, start: Any) -> None:
        self._held = (0, start)

    @contextlib.contextmanager
    def module(self, step: int) -> Iterator[Any]:
        """The reference of a step, for looking only. Collective.

        The policy is exported where it becomes the reference, so that a run that is resumed has it again. An
        export of this step is made anew: nobody trained on it yet.

        Raises:
            ValueError: the export that a resumed run goes on with is gone.
        """
        since = self._since(step)
        if since == 0 and self.adapted is not None:
            with self.adapted.disable_adapter():
                yield self.trained
            return
        if self._held[0] != since:
            path = self._path(since)
            self._held = (0, None)
            if since == step:
                self.keep(path)
            elif not path.is_dir():
                raise ValueError(
                    f"{path} is missing, the reference of step {step + 1}: put it back, or start in another "
                    "folder (out=...)"
                )
            self._held = (since, self.load(path))
            # A checkpoint whose commit has only begun may be of the period before.
            self._delete_but({since, since - self.every})
        yield self._held[1]

    def tidy(self) -> None:
        """Delete the exports that no checkpoint needs, when the run has ended and all are committed."""
        self._delete_but(set())

    def _since(self, step: int) -> int:
        """The step whose policy is the reference of a step; 0 for the start."""
        return step - step % self.every if self.every else 0

    def _path(self, since: int) -> Path:
        return self.folder / f"step-{since:08d}"

    def _delete_but(self, kept: set[int]) -> None:
        """A checkpoint of `done` steps goes on with step number `done`: where that is the one of an export,
        it makes it anew."""
        if self.resumable is None or not self.folder.is_dir():
            return
        kept |= {self._since(done) for done in self.resumable() if self._since(done) != done}
        for path in sorted(self.folder.iterdir()):
            match = _FOLDER.fullmatch(path.name)
            if match and int(match[1]) not in kept and not remove(path):
                log.warning("%s could not be deleted, will be tried again", path)


def resumable(checkpoints: Path) -> set[int]:
    """Steps of the checkpoints in a folder, those included that are being committed or deleted."""
    if not checkpoints.is_dir():
        return set()
    # In this order: what is published between the two looks is seen by one of them.
    hidden = {step for _, step, _, _ in hidden_in(checkpoints)}
    return hidden | {*steps_in(checkpoints)}
