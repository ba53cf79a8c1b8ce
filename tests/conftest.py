"""Fixtures that all tests share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.shared import shared_file

# Tests run side by side, and processes that they start compute the same bits as they do themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """A function from a data file's name to its path; skips the test where the data is absent."""

    def find(name: str) -> Path:
        path = shared_file(name)
        if path is None:
            pytest.skip(f"shared data {name!r} is not on this machine (set AIMO_SHARED to its folder)")
        return path

    return find
