"""Fixtures that all tests share."""

import gc
import os
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings

from benchmarks.shared import shared_file

# Tests run side by side, and processes that they start compute the same bits as they do themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# By itself vLLM binds every engine's first thread to the same core, and takes more threads than one.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
# A core that others use too makes no example wrong. The same examples each time: what fails is the change's
# doing. New ones are looked for by `pytest --hypothesis-profile=search -m hypothesis`.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, derandomize=False, print_blob=True)
settings.register_profile("quick", settings.get_profile("tests"), max_examples=30)
settings.load_profile("tests")

MEMORY = Path("/dev/shm")
"""A file system in memory, where the quick tests' many small files cost a fraction of what a disk asks."""


def pytest_configure(config: pytest.Config) -> None:
    """Where the slow tests are left out: fewer examples than in the run of all tests, and files in memory."""
    if config.getoption("markexpr") != "not slow":
        return
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("quick")
    if holds_files(MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def holds_files(folder: Path) -> bool:
    """Whether tests may keep their files there: with some space, and programs among them can be run."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    refused = found.f_flag & (os.ST_RDONLY | os.ST_NOEXEC)
    return not refused and os.access(folder, os.W_OK) and found.f_bavail * found.f_frsize > 2 << 30


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spares the garbage collector what collecting makes: thousands of tests, which live until all have run.

    To look through them again and again took a twentieth of the quick tests' time. What the tests themselves
    leave behind is found as ever.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


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

    Workers take file after file: none is then left with a file of minutes when the others have ended. Where
    the slow tests are left out, their files still have the longest of the others, and go first as well; the
    rest follow by their number of tests.
    """
    weights: dict[Path, tuple[float, int, int]] = {}
    for item in items:
        longest, slow, number = weights.get(item.path, (0.0, 0, 0))
        if item.get_closest_marker("slow"):
            allowed = item.get_closest_marker("timeout")
            longest, slow = max(longest, allowed.args[0] if allowed else 0.0), slow + 1
        weights[item.path] = (longest, slow, number + 1)
    items.sort(key=lambda item: weights[item.path], reverse=True)
