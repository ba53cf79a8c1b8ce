import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from submission.clock import VirtualLoop
from submission.contest import Contest, Known, problem_key, read_known
from submission.engines.base import Chunk, EngineError, SampleRequest
from submission.engines.replay import Recorded, ReplayEngine
from submission.gateway.predict import make_predict
from submission.journal import AnswerLine, BudgetLine, FaultLine, Journal, ReadyLine, SampleLine, read_journal
from submission.settings import BudgetSettings, ContestRules, ContestSettings, SolverSettings
from submission.solving.solver import Solver
from tests.submission.virtual import boxed, run_virtual


def make_settings(**rules: Any) -> ContestSettings:
    return ContestSettings(
        rules=ContestRules(**{"time_limit": 1000.0, "expected_problems": 2, **rules}),
        budget=BudgetSettings(reserve=50, floor=100, cap=400),
        solver=SolverSettings(num_agents=2, agree=2),
    )


async def play(contest: Contest, problems: list[tuple[str, str]]) -> list[int]:
    contest.start()
    answers = [await contest.answer(identifier, text) for identifier, text in problems]
    await contest.close()
    return answers


def make_contest(
    recording: dict[str, list[Recorded]],
    journal: Path | None = None,
    known: Known | None = None,
    settings: ContestSettings | None = None,
    **engine: Any,
) -> Contest:
    return Contest(
        settings or make_settings(),
        ReplayEngine(recording, **engine),
        Journal(journal),
        lambda: asyncio.get_running_loop().time(),
        known,
    )


def test_answers_and_journal(tmp_path: Path) -> None:
    recording = {"a": [boxed(3, 10), boxed(3, 20)], "b": [boxed(4, 10), boxed(5, 30)]}
    contest = make_contest(recording, tmp_path / "j.jsonl", load_seconds=30)
    answers, spent = run_virtual(play(contest, [("a", "A?"), ("b", "B?")]))
    # 30 s to load, 20 s until two agree on a, 30 s until both samples of b are in.
    assert (answers, spent) == ([3, 4], 80)
    journal = read_journal(tmp_path / "j.jsonl")
    assert len(journal.of(SampleLine)) == 4 and len(journal.of(AnswerLine)) == 2
    assert [line.elapsed for line in journal.of(ReadyLine)] == [30]
    # Load time is nobody's: 1000 - 50 - 30 available, 100 kept for the other, capped at 400.
    assert [line.seconds for line in journal.of(BudgetLine)] == [400, 400]


def test_a_restarted_contest_answers_known_problems_at_once(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    recording = {"a": [boxed(3, 10)], "b": [boxed(4, 10)]}
    run_virtual(play(make_contest(recording, path), [("a", "A?")]))
    known = read_known(path, 0, 99_999)
    # The id alone is not enough: another statement under a known id is another problem.
    again = make_contest({"a": [boxed(9, 10)], "b": [boxed(4, 10)]}, path, known)
    answers, spent = run_virtual(play(again, [("a", "A?"), ("b", "B?"), ("a", "another A?")]))
    assert (answers, spent) == ([3, 4, 9], 20)


def test_a_problem_counts_once_however_often_it_is_asked_and_whoever_answered_it(tmp_path: Path) -> None:
    """Else a contest that was restarted, or asked twice over a broken line, misjudges what is to come."""
    problems = [("a", "A?"), ("b", "B?"), ("c", "C?")]
    budget = BudgetSettings(reserve=50, floor=100, cap=1000)
    wide = make_settings(expected_problems=3).model_copy(update={"budget": budget})
    recording = {key: [boxed(3, 10), boxed(3, 20)] for key in "abc"}

    def budgets(name: str, asked: list[tuple[str, str]], known: Known | None = None) -> list[float]:
        before = known.elapsed if known else 0.0
        engine, journal = ReplayEngine(recording), Journal(tmp_path / name)
        contest = Contest(wide, engine, journal, lambda: before + asyncio.get_running_loop().time(), known)
        run_virtual(play(contest, asked))
        return [line.seconds for line in read_journal(tmp_path / name).of(BudgetLine)]

    undisturbed = budgets("1", problems)
    assert len(set(undisturbed)) == 3
    assert budgets("2", [problems[0], problems[0], *problems[1:]]) == undisturbed
    budgets("3", problems[:1])
    known = read_known(tmp_path / "3", 0, 99_999)
    assert known.solving == 20
    # By a server of which only the rest is asked, and by a local contest that begins anew.
    assert budgets("4", problems[1:], known) == undisturbed[1:]
    assert budgets("5", problems, known) == undisturbed[1:]


def test_an_engine_that_does_not_start_still_answers(tmp_path: Path) -> None:
    class Broken(ReplayEngine):
        async def start(self) -> None:
            raise EngineError("no GPU")

    contest = Contest(
        make_settings(default_answer=7),
        Broken({}),
        Journal(tmp_path / "j.jsonl"),
        lambda: asyncio.get_running_loop().time(),
    )
    answers, _ = run_virtual(play(contest, [("a", "A?"), ("b", "B?")]))
    assert answers == [7, 7]
    assert read_journal(tmp_path / "j.jsonl").of(FaultLine)[0].error == "EngineError: no GPU"


def test_an_engine_that_never_finishes_loading_costs_no_overrun() -> None:
    contest = make_contest({"a": [boxed(1, 1)]}, load_seconds=1e9)
    answers, spent = run_virtual(play(contest, [("a", "A?"), ("b", "B?")]))
    # close() gives the loading a second to let go.
    assert answers == [0, 0] and spent <= 951


def test_a_fault_in_the_solver_costs_its_problem_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    contest = make_contest({"a": [boxed(1, 1)], "b": [boxed(2, 1)]})
    solve = Solver.solve

    async def broken(solver: Solver, key: str, *rest: Any, **named: Any) -> Any:
        if key == "a":
            raise RuntimeError("unforeseen")
        return await solve(solver, key, *rest, **named)

    monkeypatch.setattr(Solver, "solve", broken)
    assert run_virtual(play(contest, [("a", "A?"), ("b", "B?")]))[0] == [0, 2]


def test_keys_tell_problems_apart() -> None:
    assert problem_key("a", "bc") != problem_key("ab", "c")
    assert problem_key("a", "lone \ud800 surrogate")


recorded = st.builds(
    Recorded,
    text=st.sampled_from(
        [
            "\\boxed{1}",
            "\\boxed{2}",
            "\\boxed{123456}",
            "\\boxed{-1}",
            "no answer",
            "",
            "\\boxed{1.5}",
            "\\boxed{",
        ]
    ),
    tokens=st.integers(0, 1000),
    seconds=st.floats(0, 400),
    error=st.sampled_from(["", "", "", "engine died"]),
)
contests = st.fixed_dictionaries(
    {
        "limit": st.floats(1, 2000),
        "reserve": st.floats(0, 300),
        "floor": st.floats(0, 300),
        "cap": st.floats(0.5, 1000),
        "expected": st.integers(0, 12),
        "agents": st.integers(1, 6),
        "attempts": st.none() | st.integers(1, 9),
        "agree": st.none() | st.integers(1, 4),
        "speed": st.floats(0.1, 10),
        "load": st.floats(0, 500),
        "recording": st.dictionaries(
            st.sampled_from("abcdefgh"), st.lists(recorded, min_size=1, max_size=9), max_size=8
        ),
        "order": st.lists(st.sampled_from("abcdefghxyz"), max_size=12),
        "pause": st.lists(st.floats(0, 30), min_size=12, max_size=12),
    }
)


@pytest.mark.slow
@given(contests)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_thousand_contests_keep_their_time_and_answer_everything(case: dict[str, Any]) -> None:
    """Through `predict` itself, as the gateway calls it; only the thread in between is missing."""
    rules = ContestRules(time_limit=case["limit"], expected_problems=case["expected"])
    solver = SolverSettings(num_agents=case["agents"], max_attempts=case["attempts"], agree=case["agree"])
    budget = BudgetSettings(reserve=case["reserve"], floor=case["floor"], cap=case["cap"])
    loop = VirtualLoop()
    contest = Contest(
        ContestSettings(rules=rules, budget=budget, solver=solver),
        ReplayEngine(case["recording"], speed=case["speed"], load_seconds=case["load"]),
        Journal(None),
        loop.time,
    )
    predict = make_predict(
        lambda identifier, text: loop.run_until_complete(contest.answer(identifier, text)),
        rules.answer_min,
        rules.answer_max,
        rules.default_answer,
    )
    for name, pause in zip(case["order"], case["pause"], strict=False):
        begun = loop.time()
        frame = predict(name, f"problem {name}")
        assert frame["id"].to_list() == [name]
        (answer,) = frame["answer"].to_list()
        assert isinstance(answer, int) and 0 <= answer <= 99_999
        # A call ends within the limit; one that the gateway sends after it is answered at once.
        assert loop.time() <= max(begun, case["limit"])
        loop.run_until_complete(asyncio.sleep(pause))  # the gateway's own time
    loop.run_until_complete(contest.close())
    loop.close()


class BrokenWeights(ReplayEngine):
    """A model whose log-probabilities are NaN."""

    async def generate(self, request: SampleRequest) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().generate(request):
            yield dataclasses.replace(chunk, logprobs=(float("nan"),) * len(chunk.token_ids))


def test_journal_lines_are_json_even_with_nan(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    engine = BrokenWeights({"a": [boxed(3, 1)]})
    clock = lambda: asyncio.get_running_loop().time()  # noqa: E731 - the contest's clock, in one line
    contest = Contest(make_settings(), engine, Journal(path), clock)
    assert run_virtual(play(contest, [("a", "A?")]))[0] == [3]
    for line in path.read_text(encoding="ascii").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in the journal"))
    assert [sample.logprob for sample in read_journal(path).of(SampleLine)] == [None, None]
