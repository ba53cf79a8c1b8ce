"""What could cost every problem, or a problem its votes, around one engine that serves: each of these did."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from submission.agents.formats import make_format
from submission.agents.team import Role, load_team
from submission.contest import Contest
from submission.engines.replay import ReplayEngine
from submission.journal import AnswerLine, Journal, SampleLine, read_journal
from submission.selection.rule import Rule
from submission.settings import ContestRules, ContestSettings, SolverSettings
from submission.solving.solver import SILENT
from submission.staff import SCORER_SECONDS, Staff
from tests.submission.virtual import boxed, run_virtual

RULES = ContestRules(time_limit=1000.0, expected_problems=2, default_answer=9)
SETTINGS = ContestSettings(rules=RULES, solver=SolverSettings(num_agents=3, agree=None))
# Two answers, so that there is something to score; 3 has the votes.
RECORDING = {"a": [boxed(3, 1), boxed(4, 2), boxed(3, 3)], "b": [boxed(5, 1), boxed(6, 2), boxed(5, 3)]}


class StubScorer:
    """A scorer that does what it is told."""

    def __init__(self, *, start: float = 0.0, score: Callable[[int], Any] = lambda _: None) -> None:
        self._start = start
        self._score = score
        self.asked = 0
        self.closed = 0

    async def start(self) -> None:
        await asyncio.sleep(self._start)

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:
        self.asked += 1
        found: list[list[float]] = self._score(len(completions))
        return found

    async def close(self) -> None:
        self.closed += 1


def play(
    *names: str,
    scorer: StubScorer | None = None,
    rule: Rule | None = None,
    engine: ReplayEngine | None = None,
    journal: Path | None = None,
    settings: ContestSettings = SETTINGS,
) -> tuple[list[int], float]:
    """Answers to RECORDING's problems, and the virtual seconds of it all."""

    async def work() -> list[int]:
        loop = asyncio.get_running_loop()
        more = {} if rule is None else {"rule": rule}
        contest = Contest(
            settings,
            engine or ReplayEngine(RECORDING),
            Journal(journal),
            lambda: loop.time(),  # noqa: PLW0108 - the loop's, whichever that is
            None,
            scorer,
            **more,
        )
        answers = [await contest.answer(name, f"{name}?") for name in names]
        await contest.close()
        return answers

    return run_virtual(work())


# --- staff ---------------------------------------------------------------------------------------


def test_a_scorer_that_never_starts_is_not_waited_for() -> None:
    scorer = StubScorer(start=1e9)
    answers, spent = play("a", "b", scorer=scorer)
    # Once for both, and a second to let go of what is left of it.
    assert answers == [3, 5] and spent <= SCORER_SECONDS + 3 + 3 + 1
    assert scorer.closed and not scorer.asked


def test_a_scorer_that_is_late_joins() -> None:
    scorer = StubScorer(start=SCORER_SECONDS + 2, score=lambda count: [[0.5]] * count)
    assert play("a", "b", scorer=scorer)[0] == [3, 5]
    assert scorer.asked == 2  # both times of b; a was done without it


def test_a_scorer_that_does_not_start_in_time_is_ended() -> None:
    settings = SETTINGS.model_copy(
        update={"supervision": SETTINGS.supervision.model_copy(update={"start_limit": 50.0})}
    )
    scorer, faults = StubScorer(start=1e9), []
    staff = Staff(settings, ReplayEngine(RECORDING), scorer, on_fault=lambda *said: faults.append(said))

    async def work() -> tuple[str, int]:
        trouble = await staff.start()
        closed = scorer.closed
        await staff.close()
        return trouble, closed

    assert run_virtual(work())[0] == ("", 1)
    assert faults == [("PRM did not start", "TimeoutError: not within 50 s")]


@pytest.mark.parametrize(
    "score", [lambda _: None, lambda _: [[0.1]] * 9, lambda n: [["x"]] * n, lambda _: sys.exit(3)]
)
def test_scores_of_any_form_leave_the_vote(score: Callable[[int], Any]) -> None:
    scorer = StubScorer(score=score)
    assert play("a", "b", scorer=scorer, rule=Rule(method="prm"))[0] == [3, 5]
    assert scorer.asked == 2


def test_a_scorer_that_says_nothing_is_not_asked_for_ever() -> None:
    """Each problem would wait for it to the end of its time."""
    names = [str(number) for number in range(SILENT + 3)]
    scorer = StubScorer(score=fail)
    engine = ReplayEngine(dict.fromkeys(names, RECORDING["a"]))
    assert play(*names, scorer=scorer, engine=engine)[0] == [3] * len(names)
    assert scorer.asked == SILENT


def test_a_rehearsal_that_breaks_costs_the_scores_alone() -> None:
    async def broken() -> None:
        raise KeyError("rehearsal")

    faults: list[tuple[str, str]] = []
    staff = Staff(SETTINGS, ReplayEngine(RECORDING), on_fault=lambda *said: faults.append(said))
    staff._turns = SimpleNamespace(  # type: ignore[assignment]
        rehearse=broken, start=lambda _: asyncio.sleep(0), close=lambda: asyncio.sleep(0), dropped=""
    )

    async def work() -> Any:
        trouble = await staff.start()
        solution = await staff.solver.solve("a", "a?", 100)
        await staff.close()
        return trouble, solution.answer

    assert run_virtual(work())[0] == ("", 3)
    assert [what for what, _ in faults] == ["PRM did not start"]


# --- one problem ---------------------------------------------------------------------------------


def test_a_text_that_breaks_the_parser_costs_its_own_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from submission.answers import contest_answer

    def breaks(text: str, *rest: Any, **named: Any) -> int | None:
        if "4" in text:
            raise RecursionError("too deep")
        return contest_answer(text, *rest, **named)

    monkeypatch.setattr("submission.solving.drawing.contest_answer", breaks)
    assert play("a", journal=tmp_path / "j")[0] == [3]
    errors = [line.error for line in read_journal(tmp_path / "j").of(SampleLine)]
    assert errors == ["", "not read: RecursionError: too deep", ""]


def fail(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a mistake of ours")


@pytest.mark.parametrize(
    "place",
    [
        "submission.contest.sample_facts",
        "submission.contest.answer_facts",
        "submission.solving.scoring.Scoring.finish",
        "submission.solving.solver.swayable",
        "submission.solving.second_look.SecondLook.ask",
        "submission.agents.verdicts.extract",
    ],
)
def test_a_mistake_of_ours_takes_no_votes_along(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the votes are in, or beside them."""
    monkeypatch.setattr(place, fail)
    team = load_team("solo").model_copy(
        update={
            "roles": (
                Role(name="solver"),
                Role(name="reader", task="verify", user_prompt="{problem} {candidate} {answer}"),
            )
        }
    )
    solver = SETTINGS.solver.model_copy(update={"num_agents": 2})
    settings = SETTINGS.model_copy(update={"team": team, "solver": solver})
    # One vote each: the quicker wins, and a reader's word could change it.
    engine = ReplayEngine({"a": [boxed(3, 1), boxed(4, 2)] * 5})
    scorer = StubScorer(score=lambda count: [[0.5]] * count)
    assert play("a", engine=engine, scorer=scorer, settings=settings)[0] == [3]


def test_a_mistake_while_samples_run_leaves_those_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    from submission.solving.solver import _Run

    whole = _Run._situation

    def breaks(run: _Run, left: float) -> Any:
        return fail() if any(sample.ended for sample in run.samples) else whole(run, left)

    monkeypatch.setattr(_Run, "_situation", breaks)
    assert play("a")[0] == [3]


def test_a_rule_that_breaks_leaves_the_plain_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("submission.selection.rule.logprob_weights", fail)
    monkeypatch.setattr("submission.selection.rule.known_share", lambda *_: 1.0)
    assert play("a", rule=Rule(method="logprob", temperature=1.0))[0] == [3]


def test_a_record_that_is_no_json_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for value in (10**5000, {("a", "b"): 1}):
        journal.write({"type": "answer", "answer": value})
    journal.write({"type": "answer", "answer": 3})
    assert [line.answer for line in read_journal(tmp_path / "j").of(AnswerLine)] == [3]


class StrictEngine(ReplayEngine):
    """Takes what a tokenizer takes: its tokens are bytes of UTF-8."""

    def encode_text(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_markup(self, text: str) -> list[int]:
        return self.encode_text(text)


@pytest.mark.parametrize("name", ["fenced", "tool_call"])
def test_what_code_prints_can_be_read_by_every_tokenizer(name: str) -> None:
    reply = bytes(make_format(name).reply(StrictEngine({}), "ValueError: \ud83d 数", 100)).decode("utf-8")
    assert "ValueError: ? 数" in reply


def test_a_tools_time_is_one_that_the_sandbox_takes() -> None:
    with pytest.raises(ValueError, match="tool_seconds"):
        Role(name="coder", tools="fenced", tool_seconds=1e6)
