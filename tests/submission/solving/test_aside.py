"""Work beside the event loop: it goes on meanwhile; on a virtual loop the work takes no time."""

import asyncio
import threading
import time

import pytest

from submission.clock import VirtualLoop
from submission.solving.aside import Aside


def test_the_loop_goes_on_while_work_is_done_one_piece_at_a_time() -> None:
    active, most = 0, 0

    def work(number: int) -> tuple[int, str]:
        nonlocal active, most
        active += 1
        most = max(most, active)
        time.sleep(0.05)
        active -= 1
        return number, threading.current_thread().name

    async def main() -> list[tuple[int, str]]:
        aside = Aside()
        tasks = [asyncio.create_task(aside.do(lambda number=n: work(number))) for n in range(3)]  # type: ignore[misc]
        wakes = 0
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.005)
            wakes += 1
        assert wakes >= 5, "the loop stood still"
        return [await task for task in tasks]

    done = asyncio.run(main())
    assert [number for number, _ in done] == [0, 1, 2]
    assert most == 1
    assert threading.current_thread().name not in {name for _, name in done}


def test_on_a_virtual_loop_work_is_done_in_place() -> None:
    loop = VirtualLoop()
    try:
        name = loop.run_until_complete(Aside().do(lambda: threading.current_thread().name))
        assert (name, loop.time()) == (threading.current_thread().name, 0.0)
    finally:
        loop.close()


def test_its_exception_is_the_caller_s() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(Aside().do(lambda: 1 // 0))
