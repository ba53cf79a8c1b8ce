"""Fixtures that all tests share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.shared import shared_file


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """A function from a data file's name to its path; skips the test where the data is absent."""

    def find(name: str) -> Path:
        path = shared_file(name)
        if path is None:
            pytest.skip(f"shared data {name!r} is not on this machine (set AIMO_SHARED to its folder)")
        return path

    return find
