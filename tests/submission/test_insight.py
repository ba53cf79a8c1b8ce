"""What a report says of choosing, agreeing and reusing, next to the score."""

from pathlib import Path

from submission.gateway.rehearsal import Row
from submission.journal import Journal
from submission.problems import Problem
from submission.reporting.insight import insight
from submission.reporting.report import write_report
from submission.reporting.results import ContestResults, collect
from submission.settings import ContestSettings


def played(
    path: Path, answers: dict[str, list[int | None]], chosen: dict[str, int], gold: int = 7
) -> ContestResults:
    journal = Journal(path)
    for name, samples in answers.items():
        journal.write({"type": "problem", "id": name, "key": name})
        for attempt, answer in enumerate(samples):
            calls = (
                [{"code": "<b>1/0", "output": "ZeroDivisionError", "failed": True, "seconds": 0.1}]
                if attempt
                else []
            )
            line = {"type": "sample", "id": name, "attempt": attempt, "answer": answer, "finish": "stop"}
            journal.write(
                {**line, "prompted": 100, "cached": 75, "calls": calls, "role": "coder", "text": "<i>x"}
            )
        line = {
            "type": "answer",
            "id": name,
            "key": name,
            "answer": chosen[name],
            "source": "vote",
            "plain": 5,
        }
        opinion = {"role": "judge", "task": "select", "answer": 7, "right": True, "text": "<script>"}
        scores = [[0, 0.25, 0.5]]
        journal.write(
            {**line, "rule": "prm (min)", "opinions": [opinion], "scores": scores, "votes": [[7, 2], [5, 1]]}
        )
    journal.close()
    problems = [Problem(name, "What?", gold) for name in answers]
    rows = [Row(name, chosen[name], "", 1.0) for name in answers]
    return collect(problems, rows, path, name="n", time_limit=100.0, elapsed=10.0)


def test_by_hand(tmp_path: Path) -> None:
    answers: dict[str, list[int | None]] = {"a": [7, 7, 5, None], "b": [5, 5, 7, 5], "c": [1, 2, 3, 4]}
    outcome = played(tmp_path / "j.jsonl", answers, {"a": 7, "b": 5, "c": 1})
    seen = insight(outcome)
    # Two problems have a right attempt, one of them is answered right; the plain vote (5) is right for none.
    assert (seen.problems, seen.possible, seen.chosen, seen.plain) == (3, 2, 1, 0)
    assert seen.loss == 1 / 3
    assert seen.cached == 0.75
    assert (seen.calls, seen.failures, seen.opinions) == (9, 9, 3)
    # One-way analysis of variance of 1/2, 1/4 and 0 of 4: 4 (1/16 + 1/16) / 2 between, (1 + 3/4) / 9 within.
    between, within = 0.25, 1.75 / 9
    rho = (between - within) / (between + 3 * within)
    assert seen.correlation is not None and abs(seen.correlation - rho) < 1e-12
    assert seen.effective is not None and abs(seen.effective - 4 / (1 + 3 * rho)) < 1e-12


def test_nothing_is_made_up(tmp_path: Path) -> None:
    seen = insight(played(tmp_path / "j.jsonl", {}, {}))
    assert (seen.problems, seen.loss, seen.correlation, seen.cached, seen.plain) == (
        0,
        None,
        None,
        None,
        None,
    )


def test_the_page_shows_it_and_escapes_what_models_wrote(tmp_path: Path) -> None:
    outcome = played(tmp_path / "j.jsonl", {"a": [7, 5]}, {"a": 7})
    write_report(tmp_path / "r.html", outcome, ContestSettings())
    page = (tmp_path / "r.html").read_text()
    assert "selection loss" in page and "prefix cache" in page and "Chosen by prm (min)" in page
    assert "sample 1 by coder" in page and "judge (select): picks 7" in page and "0.25 0.50" in page
    assert "<script>" not in page and "<b>1/0" not in page and "<i>x" not in page
