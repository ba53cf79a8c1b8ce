"""What PRM scores cost in simulated contests, and how fast they are said to come."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.simulator.__main__ import app
from benchmarks.simulator.contest import Entry, Machine, simulate
from benchmarks.simulator.pool import RIGHT, PoolProblem, PoolSample
from benchmarks.simulator.prm_time import recorded_prm_speed
from benchmarks.simulator.throughput import Curve
from submission.contest import Contest
from submission.engines.replay import ReplayEngine
from submission.journal import AnswerLine, Journal, read_journal
from submission.selection.rule import Rule
from submission.settings import ContestSettings
from tests.submission.virtual import boxed, run_virtual

BY_SCORE = Rule(method="prm")
FREE = Curve(100.0, float("inf"))


def test_scores_come_after_their_time_and_the_answer_waits_for_them() -> None:
    rows = [(2, 1.0, 0.1), (2, 2.0, 0.2), (RIGHT, 3.0, 0.9)]
    samples = tuple(
        PoolSample(f"{n}: \\boxed{{{answer}}}", answer, 50, work, steps=(score,))
        for n, (answer, work, score) in enumerate(rows)
    )
    one = Entry(PoolProblem("p", samples), "p", samples)
    settings = ContestSettings.load(None, ["solver.num_agents=3", "solver.policy=fixed"])
    best = Rule(method="best_of_n")
    assert simulate([one], settings, Machine(FREE), best).seconds == pytest.approx(3)
    # The second answer comes with the last sample: then 150 tokens are scored at once.
    scored = simulate([one], settings, Machine(FREE, prm_speed=50), best)
    assert scored.right == 1
    assert scored.seconds == pytest.approx(6)
    assert simulate([one], settings, Machine(FREE, 2.0, prm_speed=50), best).seconds == pytest.approx(12)
    # Scores that do not come in the problem's time count for nothing.
    hurried = ContestSettings.load(
        None, ["solver.num_agents=3", "solver.policy=fixed", "budget.cap=5", "budget.floor=0"]
    )
    late = simulate([one], hurried, Machine(FREE, prm_speed=50), best)
    assert late.right == 0
    assert late.seconds == pytest.approx(5, abs=0.2)


def test_a_journal_tells_how_fast_scores_came(tmp_path: Path) -> None:
    assert recorded_prm_speed([tmp_path]) == 0
    journal = tmp_path / "contests" / "own-0" / "submission.journal.jsonl"
    journal.parent.mkdir(parents=True)
    rows = [
        {"type": "problem", "id": "p"},
        {"type": "sample", "id": "p", "attempt": 0, "answer": 7, "tokens": 300, "finish": "stop"},
        {"type": "sample", "id": "p", "attempt": 1, "answer": 8, "tokens": 100, "finish": "stop"},
        {"type": "sample", "id": "p", "attempt": 2, "tokens": 900, "finish": "stop"},
        {"type": "answer", "id": "p", "answer": 7, "scores": [[0, 0.5], [1, 0.2]], "scoring": 2.0},
    ]
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert recorded_prm_speed([tmp_path]) == 200


class Slow:
    """Needs a second for each completion; fails where one holds "{9}"."""

    async def start(self) -> None:
        return

    async def score_steps(self, problem: str, completions: Sequence[str]) -> list[list[float]]:
        await asyncio.sleep(len(completions))
        if any("{9}" in text for text in completions):
            raise RuntimeError("out of memory")
        return [[0.5]] * len(completions)

    async def close(self) -> None:
        return


@pytest.mark.parametrize(
    ("last", "cap", "scored", "scoring"),
    [
        (7, 50.0, 4, 4.0),
        # A batch without scores tells nothing of the speed.
        (9, 50.0, 3, 3.0),
        (7, 5.5, 3, 3.0),
        (7, 4.5, 0, 0.0),
    ],
)
def test_a_contest_with_the_prm_beside_it_says_how_fast_scores_came(
    tmp_path: Path, last: int, cap: float, scored: int, scoring: float
) -> None:
    """Samples end after 1, 1, 2 and 5 seconds, of 80 tokens each; the second answer is the third's."""
    journal = tmp_path / "contests" / "own-0" / "submission.journal.jsonl"
    journal.parent.mkdir(parents=True)
    given = ["solver.policy=fixed", "solver.num_agents=4", f"budget.cap={cap}", "budget.floor=0"]
    engine = ReplayEngine({"p": [boxed(7, 1.0), boxed(7, 1.0), boxed(8, 2.0), boxed(last, 5.0)]})

    async def play() -> None:
        clock = asyncio.get_running_loop().time
        settings = ContestSettings.load(None, given)
        contest = Contest(settings, engine, Journal(journal), clock, scorer=Slow(), rule=BY_SCORE)
        await contest.answer("p", "What?")
        await contest.close()

    run_virtual(play())
    (line,) = read_journal(journal).of(AnswerLine)
    assert (len(line.scores), line.scoring, line.swap) == (scored, scoring, None)
    assert ('"scoring"' in journal.read_text()) is (scoring > 0)
    assert recorded_prm_speed([tmp_path]) == (80 if scored else 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--prm-speed", "0"], "--prm-speed 0"), (["--setting", "prm.swap=true"], "prm.swap")],
)
def test_what_cannot_be_played_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(
        json.dumps({"problem_id": "p", "answer": "7", "isCorrect": True, "time": 1.0, "total_tokens": 9})
    )
    if words[0] == "--setting":
        words = [*words, "--setting", "prm.engine=vllm"]
    done = CliRunner().invoke(app, [str(path), *words])
    assert isinstance(done.exception, ValueError), done.output
    assert message in str(done.exception)
