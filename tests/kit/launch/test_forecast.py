"""How long is left: worked out by hand."""

from pathlib import Path

import pytest

from kit.launch.forecast import seconds_left, spelled
from kit.launch.resources import Resources
from kit.launch.tasks import Task


def task(name: str, *after: str) -> Task:
    return Task(name, Resources(), Path(name), None, ("true",), Path("record"), after)


TASKS = [task("a"), task("b"), task("c", "a"), task("d", "b", "c"), task("e", "gone")]
USUAL = {"a": 10.0, "b": 30.0, "c": 5.0, "d": 1.0, "e": 4.0}


@pytest.mark.parametrize(
    ("jobs", "running", "left"),
    [
        (1, {}, 50.0),
        # a and b from 0, c at 10, e at 15, d at 30.
        (2, {}, 31.0),
        (9, {}, 31.0),
        # b has 2 left, a all: c at 10, d at 15 behind it, e meanwhile.
        (2, {"b": 28.0, "a": 0.0}, 16.0),
        # Longer than usual: done at once.
        (1, {"b": 99.0}, 20.0),
    ],
)
def test_seconds_left(jobs: int, running: dict[str, float], left: float) -> None:
    assert seconds_left(TASKS, USUAL, jobs, running) == pytest.approx(left)


def test_nothing_is_said_where_a_stage_was_never_timed() -> None:
    assert seconds_left(TASKS, {**USUAL, "x": 1.0} | {"a": 1.0}, 2, {}) is not None
    assert seconds_left([*TASKS, task("new")], USUAL, 2, {}) is None
    assert seconds_left([], USUAL, 2, {}) == 0


def test_times_are_spelled() -> None:
    assert [spelled(s) for s in (0, 7.4, 60, 750, 3723)] == ["0:00", "0:07", "1:00", "12:30", "1:02:03"]
