"""What a journal tells, restarts included, and who is right."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.run.gathering import Contest, Drawn, gather
from benchmarks.run.judging import Judge
from benchmarks.run.outcomes import Outcome
from benchmarks.run.playing import refresh
from benchmarks.run.scoring import read_scores
from benchmarks.run.sets import Item
from benchmarks.run.summary import at_k, summary_of_set
from submission.answers import parse_gold
from submission.journal import FaultLine, SampleLine, read_journal
from submission.selection.rule import Rule

Line = dict[str, Any]


def contest(tmp_path: Path, *lines: Line) -> Contest:
    path = tmp_path / "j.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return gather(read_journal(path))


def sample(attempt: int, elapsed: float, **more: Any) -> Line:
    line = {"type": "sample", "id": "p", "attempt": attempt, "elapsed": elapsed, "finish": "stop"}
    return {**line, "tokens": 10, "seconds": 1.0, **more}


def answer(elapsed: float, **more: Any) -> Line:
    return {"type": "answer", "id": "p", "answer": 5, "source": "vote", "elapsed": elapsed, **more}


START: Line = {"type": "contest", "digest": "d"}
PROBLEM: Line = {"type": "problem", "id": "p", "key": "k", "elapsed": 1.0}
BUDGET: Line = {"type": "budget", "id": "p", "seconds": 9.0, "elapsed": 10.0}


def test_time_counts_from_the_beginning_of_sampling(tmp_path: Path) -> None:
    found = contest(
        tmp_path, START, PROBLEM, BUDGET, sample(0, 12.5, answer=5), answer(13.0), {"type": "end"}
    )
    played = found.problems["p"]
    assert played.begun == 10.0 and played.samples[0].ended_at == 2.5 and played.answered == 13.0
    assert found.finished and found.digest == "d" and found.elapsed == 13.0 and found.starts == 1


def test_scores_find_their_samples_after_a_restart(tmp_path: Path) -> None:
    """The whole samples 1 and 3 are 0 and 1 to the process after the kill, and its own go on from 2."""
    found = contest(
        tmp_path,
        *(START, PROBLEM, BUDGET),
        *(
            sample(1, 12, text="one"),
            sample(0, 13, finish="aborted", text="cut"),
            sample(3, 14, text="three"),
        ),
        *(START, {**PROBLEM, "elapsed": 20.0}, {**BUDGET, "elapsed": 30.0}),
        *(sample(3, 33, text="late"), sample(2, 34, text="last")),
        answer(35, scores=[[0, 0.1], [1, 0.2], [2, 0.3, 0.4], [3, 0.5]]),
    )
    samples = found.problems["p"].samples
    assert [(one.line.text, one.attempt, one.steps) for one in samples] == [
        ("one", 0, (0.1,)),
        ("three", 1, (0.2,)),
        ("late", 3, (0.5,)),
        ("last", 2, (0.3, 0.4)),
    ]
    assert [one.ended_at for one in samples] == [2, 4, 23, 24]
    assert found.starts == 2 and not found.finished


def test_an_answer_known_before_keeps_its_own_line(tmp_path: Path) -> None:
    again = answer(40, source="journal", answer=5)
    found = contest(
        tmp_path, START, PROBLEM, BUDGET, sample(0, 12), answer(13, stopped="agree"), START, again
    )
    line = found.problems["p"].answer
    assert line is not None and line.stopped == "agree" and found.problems["p"].answered == 13


def test_a_contest_of_two_days_ago_goes_on_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text("".join(json.dumps({**line, "at": 1000.0}) + "\n" for line in (START, PROBLEM)))
    refresh(path)
    (fault,) = read_journal(path).of(FaultLine)
    assert fault.what == "interrupted" and fault.elapsed == 1.0 and fault.at > 1e9
    refresh(path)  # fresh enough now
    assert len(read_journal(path).of(FaultLine)) == 1
    refresh(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


# --- judging -----------------------------------------------------------------------------------------


def drawn(text: str, answer: int | None = None, finish: str = "stop", steps: tuple[float, ...] = ()) -> Drawn:
    line = SampleLine(type="sample", id="p", attempt=0, text=text, answer=answer, finish=finish, tokens=10)
    return Drawn(line, 0, 1.0, steps)


def test_spellings_of_one_answer_are_one_vote() -> None:
    texts = ["\\boxed{\\frac12}", "\\boxed{0.5}", "\\boxed{x+1}", "\\boxed{1+x}", "nothing", "\\boxed{2}"]
    with Judge() as judge:
        found = judge.samples(
            [*map(drawn, texts), drawn("\\boxed{0.5}", finish="aborted")],
            *(parse_gold("\\frac{1}{2}"), 0, 99),
            last_number=False,
        )
    assert [one.right for one in found] == [True, True, False, False, False, False, False]
    assert found[0].answer == found[1].answer == "\\frac{1}{2}"
    assert found[2].answer == found[3].answer != found[5].answer
    assert found[4].answer is None and found[6].answer is None


def test_integers_of_the_range_are_the_contests_own() -> None:
    with Judge() as judge:
        found = judge.samples(
            [drawn("", 5), drawn("\\boxed{5}"), drawn("", 6)], parse_gold("5"), 0, 9, last_number=True
        )
    assert [(one.answer, one.right) for one in found] == [("5", True), (None, False), ("6", False)]


# --- figures -----------------------------------------------------------------------------------------


def outcome(
    problem: str, answers: list[str | None], gold: str, repeat: int = 0, scores: list[float] | None = None
) -> Outcome:
    item = Item(problem, problem, parse_gold(gold))
    steps = scores or []
    samples = tuple(
        drawn(f"\\boxed{{{a}}}", None if a is None else int(a), steps=(steps[i],) if steps else ())
        for i, a in enumerate(answers)
    )
    with Judge() as judge:
        verdicts = tuple(judge.samples(samples, item.gold, 0, 99, last_number=False))
    given = next((a for a in answers if a is not None), None)
    return Outcome("s", repeat, item, samples, verdicts, given, given == gold, "vote", 1.0, "", 0.0, 60.0)


def test_pass_maj_and_prm_at_k_by_hand() -> None:
    # One of four is right, and the scores know which.
    one = outcome("a", ["1", "2", "2", "3"], "1", scores=[0.9, 0.1, 0.1, 0.1])
    rows = at_k([[one]], 4, Rule(method="best_of_n"))
    assert [row["k"] for row in rows] == [1, 2, 4]
    assert [row["pass"]["mean"] for row in rows] == pytest.approx([0.25, 0.5, 1])
    # Of two, the first of a tie wins: 1 comes first in each of the three pairs that hold it.
    assert [row["maj"]["mean"] for row in rows] == pytest.approx([0.25, 0.5, 0])
    assert [row["prm"]["mean"] for row in rows] == pytest.approx([0.25, 0.5, 1])


def test_missing_samples_are_wrong_ones() -> None:
    one = outcome("a", ["1"], "1")
    (row,) = at_k([[one]], 4, None)[:1]
    assert row["pass"]["mean"] == row["maj"]["mean"] == 0.25
    assert summary_of_set([one], samples=4)["missing"] == 3


def test_figures_of_contests_by_hand() -> None:
    first = [outcome("a", ["1", "1"], "1"), outcome("b", ["2", "3"], "3")]
    second = [outcome("a", ["1", "4"], "1", 1), outcome("b", ["3", "3"], "3", 1)]
    found = summary_of_set([*first, *second], samples=None, contaminated=["b"])
    assert found["accuracy"]["mean"] == 0.75 and found["right"] == [1, 2]
    assert found["twice_run"]["score"] == 1.5 and found["twice_run"]["both"] == 0.5
    assert found["attempts"]["pass_1"] == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)
    assert found["attempts"]["selection_loss"] == 0.25
    assert found["discordant"] == pytest.approx(0.5)  # b differs in the one pair of runs
    assert found["accuracy_clean"]["mean"] == 1 and found["contaminated"] == ["b"]
    assert [row["total"] for row in found["timeline"][0]] == [1, 1]
    assert found["curves"]["tokens"][-1].budget == 20
    json.dumps(found, allow_nan=False)


def test_scores_of_a_killed_pass_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text('\n{"id": "a", "attempt": 1, "steps": [0.5]}\n{"id": "a", "att')
    assert read_scores(path) == {("a", 1): (0.5,)}
    assert read_scores(tmp_path / "none") == {}
