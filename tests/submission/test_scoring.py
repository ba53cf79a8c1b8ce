"""A process reward model within the contest: what its scores decide, and what they do not."""

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from submission.contest import Contest
from submission.engines.replay import ReplayEngine
from submission.gateway.rehearsal import Row
from submission.journal import Journal
from submission.problems import Problem
from submission.reporting.report import write_report
from submission.reporting.results import collect
from submission.selection.candidate import Candidate
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestRules, ContestSettings, SolverSettings
from submission.setup import TIES
from submission.solving.choosing import choose
from submission.solving.sample import Solution
from submission.solving.solver import Solver
from tests.submission.virtual import boxed, run_virtual


def test_scores_break_ties_and_nothing_else() -> None:
    def chosen(answers: list[int | None], scores: dict[int | None, float]) -> int | None:
        found = [Candidate(one, steps=(scores[one],) if one in scores else ()) for one in answers]
        return choose(found, TIES).answer

    assert chosen([1, 2], {1: 0.2, 2: 0.9}) == 2
    assert chosen([1, 1, 2], {1: 0.2, 2: 0.9}) == 1
    assert chosen([*[1] * 33, *[2] * 32], {1: 0.0, 2: 1.0}) == 1
    assert chosen([1, 2, None], {1: 0.5}) == 1
    assert chosen([1, 2], {}) == 1


class Fixed:
    """Scores by a table, or fails."""

    def __init__(self, values: dict[str, float] | None) -> None:
        self._values = values
        self.closed = False

    async def start(self) -> None:
        return

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:
        if self._values is None:
            raise RuntimeError("no scores today")
        return [
            [0.95, next(value for mark, value in self._values.items() if mark in text)]
            for text in completions
        ]

    async def close(self) -> None:
        self.closed = True


BEST = Rule(method="best_of_n")


def solve(values: dict[str, float] | None, rule: Rule = BEST) -> Solution:
    engine = ReplayEngine({"p": [boxed(1, 1), boxed(2, 1)]})
    settings = SolverSettings(num_agents=2, agree=None)
    solver = Solver(engine, settings, ContestRules(), scorer=Fixed(values), rule=rule)
    return run_virtual(solver.solve("p", "What?", 10))[0]


def test_the_solver_asks_the_scorer_when_answers_differ() -> None:
    solution = solve({"{1}": 0.1, "{2}": 0.8})
    assert solution.answer == 2
    assert [sample.steps for sample in solution.samples] == [(0.95, 0.1), (0.95, 0.8)]
    assert solve({"{1}": 0.1, "{2}": 0.8}, PLAIN).answer == 1


def test_the_journal_and_the_report_show_the_scores(tmp_path: Path) -> None:
    settings = ContestSettings(solver=SolverSettings(num_agents=2, agree=None))
    path = tmp_path / "j.jsonl"
    scorer = Fixed({"{1}": 0.1, "{2}": 0.8})

    async def play() -> int:
        engine = ReplayEngine({"p": [boxed(1, 1), boxed(2, 1)]})
        clock = asyncio.get_running_loop().time
        contest = Contest(settings, engine, Journal(path), clock, scorer=scorer, rule=BEST)
        contest.start()
        answer = await contest.answer("p", "What?")
        assert contest.loaded
        await contest.close()
        return answer

    assert run_virtual(play())[0] == 2
    assert scorer.closed
    rows = [Row("p", 2, "", 1.0)]
    outcome = collect([Problem("p", "What?", 2)], rows, path, name="n", time_limit=9.0, elapsed=1.0)
    assert outcome.results[0].prm == ((1, 0.1), (2, 0.8))
    write_report(tmp_path / "r.html", outcome, settings)
    assert "PRM of 2: 0.800" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("values", [None, {"{1}": math.nan, "{2}": math.nan}])
def test_a_scorer_that_fails_changes_nothing(values: dict[str, float] | None) -> None:
    assert solve(values).answer == 1
