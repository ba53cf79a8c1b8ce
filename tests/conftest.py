"""Fixtures that all tests share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from benchmarks.shared import shared_file

# Tests run side by side, and processes that they start compute the same bits as they do themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A core that others use too makes no example wrong. The same examples each time: what fails is the change's
# doing. New ones are looked for by `pytest --hypothesis-profile=search -m hypothesis`.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("tests")


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """A function from a data file's name to its path; skips the test where the data is absent."""

    def find(name: str) -> Path:
        path = shared_file(name)
        if path is None:
            pytest.skip(f"shared data {name!r} is not on this machine (set AIMO_SHARED to its folder)")
        return path

    return find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files of slow tests first, those with the most time to run before the others.

    Workers take file after file: none is then left with a file of minutes when the others have ended.
    """
    weights: dict[Path, tuple[float, int]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            allowed = item.get_closest_marker("timeout")
            longest, number = weights.get(item.path, (0.0, 0))
            weights[item.path] = (max(longest, allowed.args[0] if allowed else 0.0), number + 1)
    items.sort(key=lambda item: weights.get(item.path, (0.0, 0)), reverse=True)
