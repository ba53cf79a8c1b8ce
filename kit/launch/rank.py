"""One rank of a job: trains, and leaves word of how it ended.

    python -m kit.launch.rank ATTEMPT_FOLDER        (started on each node by kit.launch.node)

It is `python -m kit.train` but for three things. A stop is also asked for by a file, which reaches ranks that
a signal to the batch script does not. Signals count from the first line on, not only once the phase listens.
And a rank that has saved exits with 0: with 85 the first one to end would have the others killed.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from rich.console import Console

from kit.launch.attempts import Plan, asked_to_stop, tell_end
from kit.launch.loading import without_collections
from kit.training.ranks import quit_rank
from kit.training.signals import REQUEUE_EXIT_CODE, StopRequest
from submission.engines.base import EngineError

_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
_POLL = 0.5


class Early:
    """Notes a signal that comes before the phase listens, or the file, and passes it on once it does."""

    def __init__(self, attempt: Path) -> None:
        self._attempt = attempt
        self._noted: signal.Signals | None = None
        for number in _SIGNALS:
            signal.signal(number, self._note)
        threading.Thread(target=self._watch, name="stop", daemon=True).start()

    @property
    def asked(self) -> bool:
        """Whether the rank was asked to stop, by whatever way."""
        return self._noted is not None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted = signal.Signals(number)

    def _watch(self) -> None:
        while True:
            listener = getattr(signal.getsignal(signal.SIGUSR1), "__self__", None)
            if isinstance(listener, StopRequest) and listener.requested:
                self._noted = signal.Signals[listener.requested]
                return
            if self._noted is None and asked_to_stop(self._attempt):
                self._noted = signal.SIGUSR1
            if self._noted is not None and listener is not self:
                os.kill(os.getpid(), self._noted)
                return
            time.sleep(_POLL)


def main(attempt: Path) -> None:
    """Train by the attempt's plan. Ends the process with the rank's exit code."""
    early = Early(attempt)
    rank = os.environ["RANK"]
    name = f"rank-{int(rank):05d}"
    try:
        _train(Plan.read(attempt / "plan.json"))
    except ValueError as error:
        # What the machine or an engine did may go better next time; what the user wrote will not. A signal
        # may have ended what the rank needs: Slurm sends them to all processes of a node.
        passing = early.asked or isinstance(error.__cause__, (OSError, EngineError))
        tell_end(attempt, name, "failed" if passing else "mistake", f"rank {rank}: {error}")
        Console(stderr=True, soft_wrap=True, emoji=False).print(
            f"error: {error}", style="red", markup=False, highlight=False
        )
        sys.exit(2)
    except SystemExit as end:
        if end.code != REQUEUE_EXIT_CODE:
            raise
        tell_end(attempt, name, "stopped", f"rank {rank} saved and stopped")
        sys.exit(0)


def _train(plan: Plan) -> None:
    with without_collections():
        from transformers import AutoModelForCausalLM  # noqa: F401 - most of what the phase will import

        from kit.train import app

    spec = plan.spec
    assert spec.recipe is not None
    overrides = [*spec.overrides, *plan.overrides]
    app([spec.phase, str(spec.recipe), *overrides], prog_name="python -m kit.train")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except SystemExit as end:
        quit_rank(end.code)
        raise
