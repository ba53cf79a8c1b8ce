"""How far a trace run is: read from the journals as they grow, shown as a bar or, in a log, as lines."""

import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kit.traces.journal import parse_line

LINE_SECONDS = 30.0


class SampleProgress:
    """A context manager; `update` reads what the journals gained since the last call.

    Args:
        journals: files that may not exist yet.
        done: samples that stand already.
        total: samples of the whole run.
        console: where it is shown.
    """

    def __init__(self, journals: Iterable[Path], done: int, total: int, console: Console) -> None:
        self._offsets = {path: path.stat().st_size if path.exists() else 0 for path in journals}
        self._already, self._total = done, total
        self._console = console
        self._begun = self._shown = time.monotonic()
        self.new = 0
        self.correct = 0
        self.tokens = 0
        columns = (
            TextColumn("samples"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}"),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("samples", total=total, completed=done, status="loading the model")

    def __enter__(self) -> "SampleProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        self._bar.stop()
        self._line()

    def update(self) -> None:
        """Read what is new; on a terminal the bar moves, elsewhere a line comes every half minute."""
        for path, offset in self._offsets.items():
            if path.exists() and path.stat().st_size > offset:
                self._offsets[path] = self._read(path, offset)
        self._bar.update(self._task, completed=self._already + self.new, status=self.status())
        if time.monotonic() - self._shown >= LINE_SECONDS:
            self._line()

    def status(self) -> str:
        """Share of correct samples, speed, and the time left at the speed so far."""
        if not self.new:
            return "loading the model"
        spent = time.monotonic() - self._begun
        left = spent / self.new * (self._total - self._already - self.new)
        share = f"{self.correct} of {self.new} correct"
        return f"{share}, {self.tokens / spent:.0f} tokens/s, {duration(left)} left"

    def _line(self) -> None:
        self._shown = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"samples {self._already + self.new}/{self._total}: {self.status()}")

    def _read(self, path: Path, offset: int) -> int:
        with path.open("rb") as file:
            file.seek(offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                offset += len(raw)
                line = parse_line(raw)
                if line is not None:
                    self.new += 1
                    self.correct += line.correct
                    self.tokens += len(line.ids)
        return offset


def duration(seconds: float) -> str:
    """In words, for a person."""
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds % 60:.0f} s"
