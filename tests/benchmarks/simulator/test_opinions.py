"""Verifiers and selectors in simulated contests say what was recorded of them; unheard ones are refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.simulator.contest import Entry, Machine, simulate
from benchmarks.simulator.opinions import PROMPTS, Heard, Opinions, read_heard, require_heard
from benchmarks.simulator.pool import RIGHT, PoolProblem, PoolSample
from benchmarks.simulator.recording import Taken
from benchmarks.simulator.throughput import Curve
from submission.agents.team import load_team
from submission.settings import ContestSettings

CURVE = Curve(100.0, 1.0)
CODES = {"p": {"7": RIGHT, "8": 2, "9": 3}}


def heard(role: str, answer: str | None, *, said: bool | None, about: bool, problem: str = "p") -> Heard:
    task = "select" if role == "selector" else "verify"
    return Heard(problem, role, task, answer, about, True, said, tokens=30, seconds=6.0, company=3)


def asked(task: str, name: str, answers: Sequence[int]) -> str:
    listed = "\n\n".join(
        f"### Solution {place}\n\nRecorded sample {place}: the answer is \\boxed{{{answer}}}."
        for place, answer in enumerate(answers)
    )
    form = PROMPTS[task].format(name=name)
    return form.format(answer=answers[0], problem="Recorded problem p", candidate=listed, candidates=listed)


def test_what_was_said_of_an_answer_is_said_again() -> None:
    known = [
        heard("verifier", "7", said=False, about=True),
        heard("verifier", "7", said=True, about=True, problem="other"),
        heard("verifier", "5", said=None, about=False, problem="other"),
    ]
    opinions = Opinions(known, CODES)
    assert opinions.say("p", asked("verify", "verifier", [RIGHT]), 10_001) == ("\\boxed{incorrect}", known[0])
    # Of 8 nothing was said: what is said of wrong answers elsewhere.
    assert opinions.say("p", asked("verify", "verifier", [2]), 10_002) == ("I cannot tell.", known[2])
    assert {opinions.say("q", asked("verify", "verifier", [RIGHT]), n)[0] for n in range(40)} == {
        "\\boxed{incorrect}",
        "\\boxed{correct}",
    }


def test_a_selector_picks_what_it_picked_wherever_that_stands() -> None:
    opinions = Opinions([heard("selector", "8", said=True, about=False)], CODES)
    assert opinions.say("p", asked("select", "selector", [RIGHT, 2]), 0)[0] == "\\boxed{1}"
    assert opinions.say("p", asked("select", "selector", [2, RIGHT]), 0)[0] == "\\boxed{0}"
    # Elsewhere it is wrong again, about whatever it sees.
    assert opinions.say("q", asked("select", "selector", [RIGHT, 5]), 0)[0] == "\\boxed{1}"
    good = Opinions([heard("selector", "7", said=True, about=True)], CODES)
    assert good.say("q", asked("select", "selector", [4, 5, RIGHT]), 0)[0] == "\\boxed{2}"
    none = Opinions([heard("selector", None, said=None, about=False)], CODES)
    assert none.say("q", asked("select", "selector", [4, RIGHT]), 0)[0] == "None of them."


def test_an_opinion_takes_its_time_less_its_company() -> None:
    assert heard("verifier", "7", said=True, about=True).work(CURVE) == pytest.approx(6 / 3)


def _contest(opinions: Sequence[Heard], policy: str = "value") -> tuple[int, float, int]:
    answers = [2, RIGHT, 2, RIGHT, 3, 4, 5, 6]
    samples = tuple(
        PoolSample(f"Recorded sample {n}: the answer is \\boxed{{{answer}}}.", answer, 50, 1.0 + n / 100)
        for n, answer in enumerate(answers)
    )
    one = Entry(PoolProblem("p", samples, CODES["p"]), "p#0", samples)
    settings = ContestSettings.load(
        None, [f"solver.policy={policy}", "solver.num_agents=8", "solver.max_attempts=8", "budget.floor=0"]
    ).model_copy(update={"team": load_team("mixed")})
    found = simulate([one], settings, Machine(Curve(100.0, float("inf")), heard=tuple(opinions)))
    return found.right, found.seconds, found.problems[0].samples


@pytest.mark.parametrize("policy", ["value", "agree", "adaptive", "deepconf", "fixed"])
def test_opinions_decide_a_simulated_contest_and_take_their_time(policy: str) -> None:
    right, seconds, samples = _contest([], policy)
    assert right == 0  # of equal votes the first counts
    said = [
        heard("selector", "7", said=True, about=True),
        heard("verifier", "7", said=True, about=True),
        heard("verifier", "8", said=False, about=False),
    ]
    decided, later, drawn = _contest(said, policy)
    assert (decided, drawn) == (1, samples)
    assert later == pytest.approx(seconds + 6, abs=0.01)
    assert _contest([heard("selector", "8", said=True, about=False), said[2]], policy)[0] == 0


@pytest.mark.parametrize("policy", ["value", "agree", "adaptive", "deepconf", "fixed"])
def test_a_team_of_whom_nothing_is_recorded_is_refused(policy: str) -> None:
    own = ContestSettings.load(None, [f"solver.policy={policy}"])
    mixed = own.model_copy(update={"team": load_team("mixed")})
    with pytest.raises(ValueError, match=r"'verifier' \(verify\).*--without-opinions"):
        require_heard(mixed, [])
    with pytest.raises(ValueError, match=r"'selector' \(select\)"):
        require_heard(mixed, [heard("verifier", "7", said=True, about=True)])
    require_heard(own, [])
    worthless = own.solver.model_copy(update={"opinion_votes": 0.0})
    require_heard(mixed.model_copy(update={"solver": worthless}), [])


def test_opinions_are_read_from_the_journals_of_a_run(tmp_path: Path) -> None:
    journal = tmp_path / "contests" / "own-0" / "submission.journal.jsonl"
    journal.parent.mkdir(parents=True)
    opinions = [
        {"role": "verifier", "task": "verify", "answer": 8, "right": False, "tokens": 40, "seconds": 2.5},
        {"role": "selector", "task": "select", "answer": 7, "right": True, "tokens": 60, "seconds": 3.0},
    ]
    rows = [
        {"type": "contest"},
        {"type": "problem", "id": "a/b"},
        {"type": "answer", "id": "a/b", "answer": 7, "votes": [[7, 1], [8, 1]], "opinions": opinions},
    ]
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
    taken = [Taken("a/b", "c", 0, "7", right=True, tokens=5, seconds=1.0)]
    assert read_heard([tmp_path], taken) == [
        Heard("a/b", "verifier", "verify", "8", False, True, False, 40, 2.5, 2),
        Heard("a/b", "selector", "select", "7", True, True, True, 60, 3.0, 2),
    ]
