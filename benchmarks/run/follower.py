"""A run without a time limit, as it goes: problems done, tokens a second, time left at the pace so far."""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from benchmarks.run.durations import spell_duration
from submission.journal import AnswerLine, SampleLine, parse_line

EVERY_SECONDS = 30.0


class Follower:
    """Reads a contest's journal beside it and prints a line now and then; a context manager.

    Args:
        journal: need not be there yet.
        problems: in all.
        console: where lines go.
        every: seconds between lines.
    """

    def __init__(self, journal: Path, problems: int, console: Console, every: float = EVERY_SECONDS) -> None:
        self._journal = journal
        self._problems = problems
        self._console = console
        self._every = every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="follower", daemon=True)
        self._answered: set[str] = set()
        self._before = 0
        self._samples = self._tokens = 0
        self._offset = 0
        self._rest = b""

    def __enter__(self) -> Self:
        self._read()
        self._before = len(self._answered)
        self._samples = self._tokens = 0
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._tell()

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            self._tell()

    def _tell(self) -> None:
        self._read()
        seconds = time.monotonic() - self._begun
        line = f"  {len(self._answered)} of {self._problems} problems, {self._samples} samples"
        line += f", {self._tokens / max(seconds, 1e-3):.0f} tokens/s, {spell_duration(seconds)}"
        done = len(self._answered) - self._before
        left = self._problems - len(self._answered)
        if done and left:
            line += f", about {spell_duration(seconds / done * left)} left"
        self._console.print(line, markup=False, highlight=False)

    def _read(self) -> None:
        """What the journal has gained; a contest that begins anew begins its journal anew."""
        try:
            with self._journal.open("rb") as file:
                if file.seek(0, 2) < self._offset:
                    self._offset, self._rest = 0, b""
                    self._answered.clear()
                file.seek(self._offset)
                data = file.read()
        except OSError:  # not there yet
            return
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for raw in lines:
            line = parse_line(raw)
            if isinstance(line, AnswerLine):
                self._answered.add(line.id)
            elif isinstance(line, SampleLine):
                self._samples += 1
                self._tokens += line.tokens
