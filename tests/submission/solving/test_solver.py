import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from submission.engines.base import Chunk, EngineError, Message, SampleRequest
from submission.engines.replay import Recorded, ReplayEngine
from submission.settings import ContestRules, SolverSettings
from submission.solving.solver import Solver
from tests.submission.virtual import boxed, run_virtual, solve_recorded


def test_majority_of_all() -> None:
    solution, spent, _ = solve_recorded([boxed(5, 1), boxed(7, 2), boxed(7, 3)])
    assert (solution.answer, solution.source, solution.votes) == (7, "vote", ((7, 2), (5, 1)))
    assert (spent, solution.seconds, solution.stopped) == (3, 3, "all finished")


def test_stops_when_enough_agree_and_aborts_the_rest() -> None:
    samples = [boxed(7, 1), boxed(7, 2), boxed(7, 3), boxed(9, 50), boxed(9, 60)]
    solution, spent, seen = solve_recorded(samples, agree=3)
    assert (solution.answer, solution.stopped, spent) == (7, "agree", 3)
    assert [sample.finish for sample in seen] == ["stop"] * 3 + ["aborted"] * 2


def test_stops_when_the_leader_cannot_be_caught() -> None:
    samples = [boxed(7, 1), boxed(7, 2), boxed(7, 3), boxed(9, 50), boxed(9, 60)]
    solution, spent, _ = solve_recorded(samples)
    assert (solution.stopped, spent) == ("uncatchable", 3)


def test_more_attempts_than_agents_run_in_turn() -> None:
    solution, spent, _ = solve_recorded([boxed(n, 1) for n in range(6)], num_agents=2, max_attempts=6)
    assert (len(solution.samples), spent) == (6, 3)


def test_time_out_without_any_box_gives_the_default() -> None:
    solution, spent, _ = solve_recorded([boxed(3, 1000)], seconds=10)
    assert (solution.answer, solution.source, solution.stopped, spent) == (0, "default", "time out", 10)


def test_partial_box_votes_when_the_time_is_out() -> None:
    # The box stands in the first eighth; the rest is closing words.
    slow = Recorded("\\boxed{42} " + "because " * 20, tokens=80, seconds=8)
    solution, _, _ = solve_recorded([slow, boxed(1, 100)], seconds=7.5)
    assert (solution.answer, solution.source) == (42, "partial")


def test_no_time_means_no_sample() -> None:
    solution, spent, seen = solve_recorded([boxed(3, 1)], seconds=0)
    assert (solution.stopped, solution.samples, spent, seen) == ("no time", (), 0, [])


def test_out_of_range_answers_do_not_vote() -> None:
    solution, _, _ = solve_recorded([boxed(100_000, 1), boxed(-3, 2), boxed(12, 3)])
    assert solution.votes == ((12, 1),)


def test_an_engine_error_costs_its_sample_alone() -> None:
    samples = [boxed(7, 1), boxed(8, 2, error="out of memory"), boxed(7, 3)]
    solution, _, seen = solve_recorded(samples)
    # A failed sample's text was written before it failed, but its last chunk never came.
    assert solution.answer == 7
    assert [(sample.finish, sample.error) for sample in seen if sample.attempt == 1] == [
        ("error", "EngineError: out of memory")
    ]


def test_a_problem_that_does_not_fit_the_context_costs_no_sample() -> None:
    class Small(ReplayEngine):
        @property
        def max_context(self) -> int:
            return 100

    solver = Solver(Small({"p": [boxed(1, 1)]}), SolverSettings(), ContestRules())
    solution, spent = run_virtual(solver.solve("p", "x" * 100_000, 10))
    assert solution.stopped.startswith("prompt of") and (solution.source, spent) == ("default", 0)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_problem_costs_no_sample(text: str) -> None:
    solver = Solver(ReplayEngine({"p": [boxed(1, 1)]}), SolverSettings(), ContestRules())
    solution, _ = run_virtual(solver.solve("p", text, 10))
    assert (solution.stopped, solution.samples) == ("empty problem", ())


class Rude(ReplayEngine):
    """Fails in every way an engine can."""

    def encode_chat(self, messages: Sequence[Message], *, tools: bool = False) -> list[int]:
        if "template" in messages[-1].content:
            raise KeyError("chat template")
        return super().encode_chat(messages, tools=tools)

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        kind = request.attempt % 4
        if kind == 0:
            raise EngineError("refused")
        yield Chunk("\\boxed{4}" if kind == 3 else "...", (1, 2), (float("nan"), -1.0))
        if kind == 1:
            raise MemoryError
        if kind == 2:
            return  # ended from outside, without a finish reason
        yield Chunk("", (3,), (-1.0,), "stop")


def test_every_kind_of_failure_leaves_an_answer() -> None:
    solver = Solver(Rude({}), SolverSettings(num_agents=8, agree=None), ContestRules())
    solution, _ = run_virtual(solver.solve("p", "What?", 10))
    assert (solution.answer, solution.votes) == (4, ((4, 2),))
    assert sorted(sample.finish for sample in solution.samples) == ["error"] * 6 + ["stop"] * 2
    solution, _ = run_virtual(solver.solve("p", "a template error", 10))
    assert solution.stopped == "prompt failed: KeyError: 'chat template'"


def test_an_engine_that_ignores_the_abort_does_not_hold_the_answer() -> None:
    class Deaf(ReplayEngine):
        async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                await asyncio.sleep(1000)
            yield Chunk("", ())

    solver = Solver(Deaf({}), SolverSettings(num_agents=2), ContestRules())
    solution, spent = run_virtual(solver.solve("p", "What?", 10))
    assert solution.stopped == "time out" and spent <= 12
