"""What a person sees while training runs: a live view on a terminal, plain lines in a log.

Rank 0 makes one, the other ranks make one with `rank` > 0 that shows nothing. No method ever raises: a view
is not worth a training run.
"""

import contextlib
import functools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Concatenate, Literal, ParamSpec

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

log = logging.getLogger(__name__)

Mode = Literal["auto", "always", "never"]
P = ParamSpec("P")

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int = 40) -> str:
    """The last `width` values as blocks between their own minimum and maximum; `!` for one not finite."""
    shown = values[-width:]
    finite = [value for value in shown if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] if math.isfinite(value) else "!" for value in shown)


def duration(seconds: float) -> str:
    """Such as `3 d 04:05:06` or `04:05:06`."""
    whole = round(max(0.0, seconds))
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock


def _quietly(
    method: "Callable[Concatenate[TrainView, P], None]",
) -> "Callable[Concatenate[TrainView, P], None]":
    @functools.wraps(method)
    def call(view: "TrainView", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if not view.active:
            return
        try:
            method(view, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a view is not worth a training run
            view.active = False
            view.abandon()
            log.warning("the view of the training is off: %s", error)

    return call


class TrainView:
    """Follows one run.

    Args:
        total_steps: of the whole run.
        mode: `auto` is the live view on a terminal and plain lines elsewhere, `always` the live view
            everywhere, `never` plain lines everywhere.
        start: the step that the run goes on from.
        title: of the run.
        seconds: between two plain lines, at least. The first and the last step always get one.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        mode: Mode = "auto",
        rank: int = 0,
        start: int = 0,
        title: str = "training",
        console: Console | None = None,
        seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.active = rank == 0
        self._console = console or Console(force_terminal=True if mode == "always" else None)
        self._is_live = mode == "always" or (mode == "auto" and self._console.is_terminal)
        self._total = total_steps
        self._title = title
        self._seconds, self._clock = seconds, clock
        self._printed: float | None = None
        self._step = start
        self._values: dict[str, float] = {}
        self._left: float | None = None
        self._losses: deque[float] = deque(maxlen=200)
        self._evaluation = ""
        self._counters: dict[str, int] = {}
        self._live: Live | None = None

    def __enter__(self) -> "TrainView":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @_quietly
    def step(self, step: int, values: Mapping[str, float | None], seconds_left: float | None = None) -> None:
        """A step is done. `values` in the order of showing; `loss` also draws the history."""
        self._step = step
        self._values = {name: value for name, value in values.items() if value is not None}
        self._left = seconds_left
        if "loss" in self._values:
            self._losses.append(self._values["loss"])
        if not self._is_live:
            now = self._clock()
            if self._printed is None or now - self._printed >= self._seconds or step >= self._total:
                self._printed = now
                self._print(self._line())

    @_quietly
    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """An evaluation is done: a permanent line, and the last one stays in the view."""
        listed = ", ".join(f"{name} {_number(value)}" for name, value in values.items())
        self._evaluation = f"evaluation at step {step}: {listed}"
        self._print(Text(self._evaluation, "bold"))

    @_quietly
    def count(self, name: str, total: int) -> None:
        """Set a counter of things that went wrong, such as "skipped steps"; 0 is not shown."""
        self._counters[name] = total

    @_quietly
    def note(self, text: str) -> None:
        """A permanent line."""
        self._print(Text(text))

    @_quietly
    def _start(self) -> None:
        if self._is_live:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True
            )
            self._live.start()

    @_quietly
    def _stop(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
            self._print(self._line())

    def abandon(self) -> None:
        """Give the terminal back after a failure."""
        if self._live is not None:
            live, self._live = self._live, None
            with contextlib.suppress(Exception):
                live.stop()

    def _print(self, text: Text) -> None:
        # Text, not markup: names are data and may hold brackets. One line in a log is one line.
        self._console.print(text, soft_wrap=True, highlight=False)

    def _line(self) -> Text:
        parts = [f"step {self._step}/{self._total}"]
        parts += [f"{name} {_number(value)}" for name, value in self._values.items()]
        if self._left is not None:
            parts.append(f"{duration(self._left)} left")
        line = Text(" - ".join(parts))
        if warnings := self._warnings():
            line.append(f" - {warnings}", "yellow")
        return line

    def _warnings(self) -> str:
        return ", ".join(f"{name}: {total}" for name, total in self._counters.items() if total)

    def _render(self) -> RenderableType:
        """Called from rich's own thread, where an error would be printed again and again."""
        try:
            return self._view()
        except Exception as error:  # noqa: BLE001 - as above
            return Text(f"step {self._step} of {self._total} (the view failed: {error})")

    def _view(self) -> RenderableType:
        left = "" if self._left is None else f" - {duration(self._left)} left"
        head = Text.assemble((self._title, "bold"), f" - step {self._step} of {self._total}{left}")
        numbers = Table.grid(padding=(0, 3))
        values = dict(self._values)
        numbers.add_row(*(Text(name, "dim") for name in values))
        numbers.add_row(*(Text(_number(value), "bold") for value in values.values()))
        rows: list[RenderableType] = [
            head,
            ProgressBar(total=max(1, self._total), completed=self._step, width=60),
            numbers,
        ]
        if losses := list(self._losses):
            rows.append(Text.assemble(("loss ", "dim"), (sparkline(losses, 60), "cyan")))
        if self._evaluation:
            rows.append(Text(self._evaluation))
        if warnings := self._warnings():
            rows.append(Text(warnings, "yellow"))
        return Group(*rows)


def _number(value: float) -> str:
    """Four significant digits; whole numbers, and all of a thousand or more, with separators."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"
