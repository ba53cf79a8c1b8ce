"""What a person sees."""

import io
import logging

import pytest
from rich.console import Console

from kit.training.live import TrainView, duration, sparkline


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=100, color_system=None), file


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_every_so_many_seconds() -> None:
    out, file = console(terminal=False)
    clock = Clock()
    with TrainView(100, console=out, seconds=30, clock=clock) as view:
        for step in range(1, 101):
            clock.now = step * 7.0  # lines at 7, 42 (35 later), 77, ... and at the end
            view.step(step, {"loss": 1 / step, "tokens/s": 12345.6, "mfu": None}, seconds_left=3661)
    lines = file.getvalue().splitlines()
    steps = [int(line.split()[1].split("/")[0]) for line in lines]
    assert steps == [*range(1, 100, 5), 100]
    assert lines[1] == "step 6/100 - loss 0.1667 - tokens/s 12,346 - 01:01:01 left"


def test_counters_evaluations_and_notes_are_shown_as_they_are() -> None:
    out, file = console(terminal=False)
    with TrainView(10, console=out) as view:
        view.count("skipped steps", 2)
        view.count("dropped rows", 0)
        view.step(1, {"loss": float("nan")})
        view.evaluated(1, {"accuracy": 0.25, "rows": 300})
        view.note("[red]rows[/] of a data set " + "x" * 200)
    assert file.getvalue().splitlines() == [
        "step 1/10 - loss nan - skipped steps: 2",
        "evaluation at step 1: accuracy 0.25, rows 300",
        "[red]rows[/] of a data set " + "x" * 200,
    ]


@pytest.mark.parametrize(
    ("mode", "terminal", "live"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("always", False, True),
        ("never", True, False),
    ],
)
def test_modes(mode: str, terminal: bool, live: bool) -> None:
    out, file = console(terminal or mode == "always")
    with TrainView(4, mode=mode, console=out, title="try [1]") as view:  # type: ignore[arg-type]
        for step in (1, 2, 3):
            view.step(step, {"loss": 3.0 - step, "grad_norm": 0.123456}, seconds_left=90000)
        view.count("cut rows", 5)
        view.evaluated(3, {"accuracy": 0.5})
    text = file.getvalue()
    assert ("\x1b[" in text) == live
    assert "evaluation at step 3: accuracy 0.5" in text
    assert "1 d 01:00:00 left" in text
    if live:
        assert "try [1] - step 3 of 4" in text
        assert "loss █▅▁" in text
        assert "cut rows: 5" in text
        assert "step 3/4 - loss 0 - grad_norm 0.1235" in text.splitlines()[-1], "the last state stays"
    else:
        assert text.startswith("step 1/4 - loss 2 - grad_norm 0.1235 - 1 d 01:00:00 left\n")


def test_other_ranks_show_nothing() -> None:
    out, file = console(terminal=True)
    with TrainView(4, mode="always", rank=1, console=out) as view:
        view.step(1, {"loss": 1.0})
        view.evaluated(1, {"a": 1.0})
        view.note("x")
    assert file.getvalue() == ""


class Broken(io.StringIO):
    """A terminal that has gone away."""

    def write(self, text: str) -> int:
        raise OSError("gone")


@pytest.mark.parametrize("mode", ["always", "never"])
def test_a_view_that_fails_never_stops_training(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    out = Console(file=Broken(), force_terminal=mode == "always")
    with caplog.at_level(logging.WARNING), TrainView(4, mode=mode, console=out) as view:  # type: ignore[arg-type]
        for step in (1, 2, 3):
            view.step(step, {"loss": 1.0})
            view.note("x")
    assert caplog.text.count("the view of the training is off") == 1


def test_values_of_the_wrong_kind_are_no_error_either(caplog: pytest.LogCaptureFixture) -> None:
    out, _ = console(terminal=False)
    with TrainView(4, console=out) as view:
        view.step(1, {"loss": "x"})  # type: ignore[dict-item]
    assert "the view of the training is off" in caplog.text


def test_sparkline_and_duration() -> None:
    assert sparkline([0, 7]) == "▁█"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5]) == "▁▁"
    assert sparkline([1, float("nan"), 2, float("inf")]) == "▁!█!"
    assert sparkline([9, 1, 2], width=2) == "▁█"
    assert sparkline([]) == ""
    assert duration(59.6) == "00:01:00"
    assert duration(-3) == "00:00:00"
    assert duration(200000) == "2 d 07:33:20"
