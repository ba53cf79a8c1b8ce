import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from submission.contest import Contest
from submission.engines.replay import ReplayEngine
from submission.journal import Journal
from submission.runtime import Runtime
from submission.settings import BudgetSettings, ContestRules, ContestSettings, SolverSettings
from tests.submission.virtual import boxed

SETTINGS = ContestSettings(
    rules=ContestRules(time_limit=60.0, default_answer=9),
    budget=BudgetSettings(reserve=1, floor=1, cap=1),
    solver=SolverSettings(num_agents=2),
)


def make(engine: ReplayEngine) -> Callable[[], Contest]:
    return lambda: Contest(SETTINGS, engine, Journal(None), lambda: 0.0)


def test_answers_from_another_thread() -> None:
    runtime = Runtime(make(ReplayEngine({"a": [boxed(3, 0.05)]})), lambda: 60.0, cap=1.0)
    assert runtime.answer("a", "A?", 9) == 3
    runtime.close()
    runtime.close()  # idempotent


def test_a_contest_that_cannot_be_made_gives_defaults() -> None:
    def broken() -> Contest:
        raise RuntimeError("no contest")

    runtime = Runtime(broken, lambda: 60.0, cap=1.0)
    assert runtime.answer("a", "A?", 9) == 9
    runtime.close()


def test_an_engine_that_exits_takes_nothing_with_it() -> None:
    class Leaving(ReplayEngine):
        async def start(self) -> None:
            raise SystemExit("a library called sys.exit()")

    runtime = Runtime(make(Leaving({})), lambda: 60.0, cap=1.0)
    assert [runtime.answer(name, "?", 9) for name in "ab"] == [9, 9]
    runtime.close()


@pytest.mark.slow
def test_a_loop_that_hangs_costs_its_problem_and_no_grace_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("submission.runtime.GRACE_SECONDS", 1.0)
    monkeypatch.setattr("submission.runtime.RESPONSE_SECONDS", 0.05)
    release = threading.Event()

    class Hanging(ReplayEngine):
        async def start(self) -> None:
            release.wait(30)  # blocks the whole loop, as a bug in a library would

    runtime = Runtime(make(Hanging({})), lambda: 0.0, cap=1.0)
    assert runtime.answer("a", "A?", 9) == 9
    begun = time.monotonic()
    assert [runtime.answer(name, "?", 9) for name in "bcd"] == [9, 9, 9]
    # A moment each to find out that the loop hangs, not the second of the grace.
    assert time.monotonic() - begun < 1
    release.set()
    runtime.close()


def test_closing_lets_go_of_an_open_answer() -> None:
    runtime = Runtime(make(ReplayEngine({"a": [boxed(3, 30)]})), lambda: 60.0, cap=50.0)
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(runtime.answer("a", "A?", 9)))
    thread.start()
    asyncio.run(asyncio.sleep(0.3))
    runtime.close()
    thread.join(10)
    assert answers == [9]
