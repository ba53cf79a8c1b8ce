"""How far a step-label run is: prefixes begun, from the journals as they grow, and the time left."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kit.steps.outcomes import Outcomes
from kit.traces.progress import LINE_SECONDS, duration


class StepProgress:
    """A context manager; `update` reads what the journals gained since the last call.

    Args:
        outcomes: of the journals, as far as they stand.
        total: prefixes that the run looks at.
        console: a bar on a terminal; elsewhere a line every half minute.
    """

    def __init__(self, outcomes: Outcomes, total: int, console: Console) -> None:
        self._outcomes, self._total, self._console = outcomes, total, console
        self._prefixes, self._rollouts, self._tokens = outcomes.prefixes, outcomes.rollouts, outcomes.tokens
        self._begun = self._shown = time.monotonic()
        columns = (
            TextColumn("prefixes"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}"),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total, completed=self._prefixes, status=self.status())

    def __enter__(self) -> "StepProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        self._bar.stop()
        self._line()

    def update(self) -> None:
        """Read what is new and show it."""
        self._outcomes.update()
        self._bar.update(self._task, completed=self._outcomes.prefixes, status=self.status())
        if time.monotonic() - self._shown >= LINE_SECONDS:
            self._line()

    def status(self) -> str:
        """Roll-outs and how many were right, speed, and the time left at the speed so far."""
        held = self._outcomes
        new = held.prefixes - self._prefixes
        if not held.rollouts - self._rollouts:
            return "loading the model"
        spent = time.monotonic() - self._begun
        shown = f"{held.rollouts} roll-outs, {held.correct} right"
        shown += f", {(held.tokens - self._tokens) / spent:.0f} tokens/s"
        return (
            f"{shown}, {duration(spent / new * max(0, self._total - held.prefixes))} left" if new else shown
        )

    def _line(self) -> None:
        self._shown = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"prefixes {self._outcomes.prefixes}/{self._total}: {self.status()}")
