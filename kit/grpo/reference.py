"""The model that the policy is kept close to: the start, or the policy as it was some steps ago."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any


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
    """

    start: InitVar[Any]
    trained: Any
    adapted: Any
    every: int
    keep: Callable[[Path], None]
    load: Callable[[Path], Any]
    folder: Path
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
        since = step - step % self.every if self.every else 0
        if since == 0 and self.adapted is not None:
            with self.adapted.disable_adapter():
                yield self.trained
            return
        if self._held[0] != since:
            path = self.folder / f"step-{since:08d}"
            self._held = (0, None)
            if since == step:
                self.keep(path)
            elif not path.is_dir():
                raise ValueError(
                    f"{path} is missing, the reference of step {step + 1}: put it back, or start in another "
                    "folder (out=...)"
                )
            self._held = (since, self.load(path))
        yield self._held[1]
