"""Contests in which engine and PRM take turns on a GPU: when, what the journal tells, and what is refused."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from submission.agents.team import load_team
from submission.contest import Contest
from submission.engines.base import EngineError
from submission.engines.replay import Recorded
from submission.gateway.rehearsal import Row
from submission.journal import AnswerLine, FaultLine, Journal, read_journal
from submission.prm.making import make_scorer
from submission.prm.vllm_scorer import VllmScorer
from submission.problems import Problem
from submission.reporting.insight import insight
from submission.reporting.report import write_report
from submission.reporting.results import ContestResults, collect
from submission.selection.rule import PLAIN, Rule
from submission.settings import ContestSettings, SolverSettings
from submission.setup import TIES, _checked
from submission.supervision import make_supervised
from tests.submission.prm.scripted import Gpu, SleepyEngine, SleepyScorer
from tests.submission.virtual import boxed, run_virtual

SWAP = ["prm.swap=true", "prm.engine=vllm"]
SCORES = {"{1}": 0.1, "{2}": 0.8}
TIE, VOTE, AGREED = (1, 2, 1, 2), (1, 1, 2, 1), (1, 1, 1, 1)
CHANGE = ["engine sleeps", "PRM wakes", "PRM scores", "PRM sleeps", "engine wakes"]
SECONDS = {"engine sleeps": 2.0, "PRM wakes": 1.0, "PRM scores": 0.5, "PRM sleeps": 1.0, "engine wakes": 2.0}


def settings(**more: Any) -> ContestSettings:
    solver = SolverSettings(**{"num_agents": 4, "policy": "fixed", **more})
    return ContestSettings.load(None, SWAP).model_copy(update={"solver": solver})


def play(
    folder: Path,
    problems: dict[str, list[Recorded]],
    *,
    rule: Rule = TIES,
    faults: dict[str, BaseException] | None = None,
    chosen: ContestSettings | None = None,
) -> tuple[list[int], Gpu, ContestResults]:
    """Answers, what happened on the GPU after the start, and what the journal tells. The clock is virtual."""
    gpu = Gpu(SECONDS)
    engine, scorer = SleepyEngine(gpu, problems), SleepyScorer(gpu, SCORES)
    path = folder / "j.jsonl"

    async def run() -> list[int]:
        clock = asyncio.get_running_loop().time
        contest = Contest(chosen or settings(), engine, Journal(path), clock, scorer=scorer, rule=rule)
        contest.start()
        await asyncio.sleep(60)
        assert contest.loaded
        gpu.events.clear()
        gpu.faults |= faults or {}
        answers = [await contest.answer(name, f"What is {name}?") for name in problems]
        await contest.close()
        return answers

    answers, seconds = run_virtual(run())
    rows = [Row(name, answer, "", 1.0) for name, answer in zip(problems, answers, strict=True)]
    asked = [Problem(name, f"What is {name}?", 2) for name in problems]
    outcome = collect(asked, rows, path, name="n", time_limit=9e3, elapsed=seconds)
    return answers, gpu, outcome


def samples(answers: tuple[int, ...]) -> list[Recorded]:
    return [boxed(answer, 1.0 + place) for place, answer in enumerate(answers)]


def test_a_tie_is_worth_a_turn_and_the_report_tells_what_it_took(tmp_path: Path) -> None:
    problems = {"tie": samples(TIE), "vote": samples(VOTE), "all": samples(AGREED)}
    answers, gpu, outcome = play(tmp_path, problems)
    assert answers == [2, 1, 1]
    assert gpu.events == [*CHANGE, "PRM closes", "engine closes"]
    tie, vote, agreed = read_journal(tmp_path / "j.jsonl").of(AnswerLine)
    assert (tie.swap, tie.scoring, tie.unscored, tie.prm) == (6.0, 0.5, "", [[1, 0.1], [2, 0.8]])
    assert vote.swap is agreed.swap is None and tie.seconds == 4.0 + 6.5
    seen = insight(outcome)
    assert (seen.swaps, seen.swap, seen.unscored, outcome.faults) == (1, 6.0, 0, ())
    write_report(tmp_path / "r.html", outcome, settings())
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "1 \u00d7 6.0 s" in page and "stayed unscored" not in page


@pytest.mark.parametrize(("rule", "turns"), [(PLAIN, 0), (Rule(method="prm", temperature=0.2), 1)])
def test_a_rule_that_weighs_scores_wants_them_for_every_split_vote(
    tmp_path: Path, rule: Rule, turns: int
) -> None:
    answers, gpu, _ = play(tmp_path, {"vote": samples(VOTE)}, rule=rule)
    assert gpu.events.count("PRM scores") == turns and answers == [2 if turns else 1]


def test_the_deadline_leaves_no_time(tmp_path: Path) -> None:
    chosen = settings()
    budget = chosen.budget.model_copy(update={"cap": 9.0})
    answers, gpu, outcome = play(
        tmp_path, {"tie": samples(TIE)}, chosen=chosen.model_copy(update={"budget": budget})
    )
    assert answers == [1] and gpu.events == ["PRM closes", "engine closes"]
    (line,) = read_journal(tmp_path / "j.jsonl").of(AnswerLine)
    assert (line.swap, line.unscored, line.seconds) == (0.0, "5.0 s left, 6.0 s needed", 4.0)
    write_report(tmp_path / "r.html", outcome, chosen)
    assert "1 undecided problems stayed unscored" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("step", CHANGE)
def test_a_turn_that_fails_costs_no_problem(tmp_path: Path, step: str) -> None:
    """Three problems, each a tie; the first turn fails: all are answered, and the report says what failed."""
    problems = {name: samples(TIE) for name in "abc"}
    answers, gpu, outcome = play(tmp_path, problems, faults={step: EngineError("gone")})
    scored = step in ("PRM sleeps", "engine wakes")
    assert answers == [2 if scored else 1, 1, 1]
    lines = read_journal(tmp_path / "j.jsonl").of(AnswerLine)
    assert [line.source for line in lines] == ["vote"] * 3
    assert [line.unscored for line in lines] == [
        "" if scored else "EngineError: gone",
        *["no PRM: EngineError: gone"] * 2,
    ]
    assert gpu.events.count("PRM closes") == 1 and gpu.events.count("engine closes") == 1
    (fault,) = read_journal(tmp_path / "j.jsonl").of(FaultLine)
    assert (fault.what, fault.error) == ("PRM dropped", "EngineError: gone")
    assert outcome.faults == ("PRM dropped: EngineError: gone",)


def test_a_second_look_is_over_before_the_engine_sleeps(tmp_path: Path) -> None:
    """The policy asks a verifier; `SleepyEngine` would tell of a sample that it writes in its sleep."""
    chosen = settings(policy="value").model_copy(update={"team": load_team("mixed")})
    chosen = chosen.model_copy(
        update={"team": chosen.team.model_copy(update={"roles": tuple(without_tools(chosen.team.roles))})}
    )
    _, gpu, outcome = play(tmp_path, {"tie": samples((1, 2) * 8)}, chosen=chosen)
    assert outcome.faults == () and outcome.results[0].opinions
    assert gpu.events.count("engine sleeps") == gpu.events.count("engine wakes")


def without_tools(roles: Any) -> Any:
    return [role.model_copy(update={"tools": "none"}) for role in roles]


def test_without_swap_the_journal_knows_nothing_of_it(tmp_path: Path) -> None:
    """And the scorer is asked as candidates finish, its engine started after the other's."""
    chosen = settings().model_copy(update={"prm": ContestSettings().prm})
    gpu = Gpu()
    gpu.take = gpu.holders.add  # type: ignore[method-assign, assignment]  # side by side here

    class Beside(SleepyScorer):
        async def score_steps(self, problem: str, completions: Any) -> list[list[float]]:
            self.batches.append(list(completions))
            return [[0.5] for _ in completions]

    async def run() -> None:
        clock = asyncio.get_running_loop().time
        engine, scorer = SleepyEngine(gpu, {"tie": samples((1, 2, 3, 4))}), Beside(gpu)
        contest = Contest(chosen, engine, Journal(tmp_path / "j"), clock, scorer=scorer, rule=TIES)
        assert await contest.answer("tie", "What?") == 1
        await contest.close()
        assert [len(batch) for batch in scorer.batches] == [2, 1, 1]

    run_virtual(run())
    assert gpu.events == ["engine starts", "PRM starts", "engine closes", "PRM closes"]
    lines = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    (answer,) = [line for line in lines if line["type"] == "answer"]
    assert not {"swap", "scoring", "unscored"} & set(answer)


# --- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["prm.swap=true"], r"prm\.swap needs prm\.engine = 'vllm', not 'transformers'"),
        ([*SWAP, "engine.kind=transformers"], r"prm\.swap needs engine\.kind = 'vllm', not 'transformers'"),
        ([*SWAP, "engine.kind=replay"], r"engine\.kind = 'vllm', not 'replay'"),
        ([*SWAP, "supervision.enabled=false"], r"prm\.swap needs supervision\.enabled = true"),
    ],
)
def test_what_cannot_take_turns_is_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ContestSettings.load(None, overrides)


@pytest.mark.parametrize(
    ("overrides", "share", "sleeps"),
    [
        (["prm.engine=vllm"], 0.12, False),
        (SWAP, 0.8, True),
        ([*SWAP, "prm.gpu_memory_utilization=0.5"], 0.5, True),
    ],
)
def test_both_engines_are_started_able_to_sleep(
    tmp_path: Path, overrides: list[str], share: float, sleeps: bool
) -> None:
    chosen = ContestSettings.load(None, overrides)
    scorer = make_scorer(chosen, tmp_path)
    assert isinstance(scorer, VllmScorer)
    served = scorer._settings
    assert (served.gpu_memory_utilization, served.sleep_mode) == (share, sleeps)
    engine = make_supervised(
        chosen, tmp_path, log=tmp_path / "log", seconds_left=lambda: 1.0, on_fault=lambda *_: None
    )
    assert engine.serving.settings.sleep_mode == sleeps  # type: ignore[attr-defined]  # supervised
    assert chosen.engine.sleep_mode is False
    if not sleeps:
        assert engine.serving.settings is chosen.engine  # type: ignore[attr-defined]


def test_nobody_swaps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = "submission.setup.importlib.util.find_spec"
    monkeypatch.setattr(spec, lambda name: name)
    chosen, notes = _checked(settings(), None)
    assert not chosen.prm.swap and notes == ("prm.swap is off: there is no PRM to take turns with.",)
    assert _checked(settings(), tmp_path) == (settings(), ())
    monkeypatch.setattr(spec, lambda name: None if name == "vllm" else name)
    chosen, notes = _checked(settings(), tmp_path)
    assert not chosen.prm.swap and chosen.engine.kind == "transformers" and len(notes) == 1
