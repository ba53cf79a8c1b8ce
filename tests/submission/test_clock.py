import asyncio
import os
import subprocess
import sys
import time

import pytest

from submission.clock import STARTED_AT, Stopwatch, VirtualLoop, started_at


def test_started_at_is_the_process_start_not_the_call() -> None:
    code = (
        "import time; time.sleep(0.3); from submission.clock import started_at as s; print(time.time() - s())"
    )
    environment = {key: value for key, value in os.environ.items() if key != STARTED_AT}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) >= 0.3


def test_an_earlier_start_is_handed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = time.time() - 100
    monkeypatch.setenv(STARTED_AT, str(earlier))
    assert started_at() == earlier


@pytest.mark.parametrize("value", ["", "soon", "nan", "1e308", "0", "-5"])
def test_a_senseless_start_is_ignored(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(STARTED_AT, value)
    assert 0 <= time.time() - started_at() < 86_400


def test_a_start_longer_ago_than_the_contest_lasts_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contest would be over before its first problem."""
    earlier = time.time() - 20_000
    monkeypatch.setenv(STARTED_AT, str(earlier))
    assert started_at() == earlier
    assert time.time() - started_at(longest=17_400) < 10_000


def test_stopwatch_counts_from_what_was_already_spent() -> None:
    watch = Stopwatch(already=50.0)
    assert 50.0 <= watch() < 51.0
    assert Stopwatch(already=-3)() < 1.0


def test_virtual_time_jumps_in_the_order_of_real_time() -> None:
    order = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append((seconds, asyncio.get_running_loop().time()))

    async def all_of_them() -> None:
        await asyncio.gather(sleeper(7200), sleeper(1), sleeper(3600))

    begun = time.monotonic()
    loop = VirtualLoop()
    loop.run_until_complete(all_of_them())
    loop.close()
    assert order == [(1, 1.0), (3600, 3600.0), (7200, 7200.0)]
    assert time.monotonic() - begun < 5  # two virtual hours


def test_virtual_timeouts_fire() -> None:
    async def late() -> str:
        try:
            async with asyncio.timeout(10):
                await asyncio.sleep(11)
        except TimeoutError:
            return f"timed out at {asyncio.get_running_loop().time():.0f}"
        return "not timed out"

    loop = VirtualLoop()
    assert loop.run_until_complete(late()) == "timed out at 10"
    loop.close()


def test_waiting_for_nothing_is_an_error_not_a_hang() -> None:
    loop = VirtualLoop()
    with pytest.raises(RuntimeError, match="stands still"):
        loop.run_until_complete(loop.create_future())
    loop.close()
