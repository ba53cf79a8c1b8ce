"""Engine, scorer and sandbox together: only the engine is needed, and all of it is ended."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from submission.agents.team import load_team
from submission.engines.replay import ReplayEngine
from submission.selection.rule import Rule
from submission.settings import ContestSettings, SandboxSettings, SolverSettings
from submission.staff import Staff
from tests.submission.virtual import boxed, run_virtual


class FakeScorer:
    """A score a candidate by what its text holds; counts its batches."""

    def __init__(
        self, values: dict[str, float], *, start: Exception | None = None, seconds: float = 0.0
    ) -> None:
        self._values = values
        self._start = start
        self._seconds = seconds
        self.batches: list[list[str]] = []
        self.closed = False

    async def start(self) -> None:
        if self._start is not None:
            raise self._start

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:
        self.batches.append(list(completions))
        await asyncio.sleep(self._seconds)
        return [[next(value for mark, value in self._values.items() if mark in text)] for text in completions]

    async def score(self, problem: str, completions: Sequence[str]) -> list[float]:
        return [steps[0] for steps in await self.score_steps(problem, completions)]

    async def close(self) -> None:
        self.closed = True


RECORDING = {"p": [boxed(5, 1), boxed(5, 2), boxed(7, 3), boxed(8, 4)]}
SETTINGS = ContestSettings(solver=SolverSettings(num_agents=4, agree=None))
SCORES = {"{5}": 0.2, "{7}": 0.9, "{8}": 0.1}
BY_SCORE = Rule(method="prm", temperature=0.2)


def play(staff: Staff, seconds: float = 100.0) -> Any:
    async def work() -> Any:
        trouble = await staff.start()
        solution = await staff.solver.solve("p", "What?", seconds)
        await staff.close()
        return trouble, solution

    return run_virtual(work())[0]


def test_scores_come_in_as_samples_finish_and_decide_where_the_rule_says_so() -> None:
    scorer = FakeScorer(SCORES, seconds=0.5)
    trouble, solution = play(Staff(SETTINGS, ReplayEngine(RECORDING), scorer, BY_SCORE))
    assert (trouble, solution.answer, solution.plain) == ("", 7, 5)
    # Nothing while all agree; then what has finished; then the rest.
    assert [len(batch) for batch in scorer.batches] == [3, 1]
    assert scorer.closed
    assert solution.prm_means == {5: 0.2, 7: 0.9, 8: 0.1}


def test_scores_without_a_calibration_change_no_vote() -> None:
    _, solution = play(Staff(SETTINGS, ReplayEngine(RECORDING), FakeScorer(SCORES)))
    assert (solution.answer, solution.rule) == (5, "majority")


@pytest.mark.parametrize("values", [{"{5}": 0.2}, {"{5}": float("nan"), "{7}": 0.9, "{8}": float("inf")}])
def test_scores_that_fail_or_are_no_numbers_leave_the_vote(values: dict[str, float]) -> None:
    _, solution = play(Staff(SETTINGS, ReplayEngine(RECORDING), FakeScorer(values), BY_SCORE))
    assert solution.answer == 5


def test_late_scores_are_not_waited_for() -> None:
    """The time of the problem is out before the second batch is scored: too few are known to decide."""
    scorer = FakeScorer(SCORES, seconds=50.0)
    _, solution = play(Staff(SETTINGS, ReplayEngine(RECORDING), scorer, BY_SCORE), seconds=10.0)
    assert solution.answer == 5 and solution.seconds <= 10.2


def test_one_answer_is_never_scored() -> None:
    scorer = FakeScorer(SCORES)
    play(Staff(SETTINGS, ReplayEngine({"p": [boxed(5, 1)]}), scorer, BY_SCORE))
    assert scorer.batches == []


def test_what_does_not_start_is_noted_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[tuple[str, str]] = []
    monkeypatch.setattr("submission.staff.Sandbox", lambda _: 1 / 0)
    settings = SETTINGS.model_copy(update={"team": load_team("tools")})
    scorer = FakeScorer(SCORES, start=OSError("no such folder"))
    staff = Staff(
        settings, ReplayEngine(RECORDING), scorer, BY_SCORE, lambda what, why: faults.append((what, why))
    )
    trouble, solution = play(staff)
    assert (trouble, solution.answer) == ("", 5)
    assert faults == [
        ("sandbox did not start", "ZeroDivisionError: division by zero"),
        ("PRM did not start", "OSError: no such folder"),
    ]


def test_an_engine_that_does_not_start_is_told() -> None:
    class Broken(ReplayEngine):
        async def start(self) -> None:
            raise SystemExit("no GPU")

    faults: list[tuple[str, str]] = []
    staff = Staff(SETTINGS, Broken({}), on_fault=lambda what, why: faults.append((what, why)))

    async def work() -> str:
        trouble = await staff.start()
        await staff.close()
        return trouble

    assert run_virtual(work())[0] == "SystemExit: no GPU"
    assert faults == [("engine did not start", "SystemExit: no GPU")]


def test_tools_run_in_the_real_sandbox() -> None:
    """On a real clock: a role with tools gets a session, and closing leaves no process."""
    psutil = pytest.importorskip("psutil")
    before = set(psutil.Process().children(recursive=True))
    settings = ContestSettings(
        team=load_team("tools"),
        sandbox=SandboxSettings(workers=2, preload=("math",)),
        solver=SolverSettings(num_agents=2),
    )
    recording = {"p": [boxed(5, 0.01), boxed(5, 0.01)]}

    async def work() -> Any:
        staff = Staff(settings, ReplayEngine(recording))
        await staff.start()
        solution = await staff.solver.solve("p", "What?", 20)
        await staff.close()
        return solution

    assert asyncio.run(work()).answer == 5
    left = [child for child in psutil.Process().children(recursive=True) if child not in before]
    psutil.wait_procs(left, timeout=5)
    assert not [child for child in left if child.is_running()]
