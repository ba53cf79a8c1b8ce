import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kit.attempts import canonical, read_attempts
from submission.selection.candidate import Candidate
from submission.selection.fitting import available


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_answers_that_are_equal_compare_equal() -> None:
    assert canonical("012") == canonical("12.0") == canonical(12) == 12
    assert canonical("\\frac{1}{2}") == canonical("\\dfrac12") != canonical("2")
    assert canonical(None) is canonical("") is None


def test_lines_of_attempts(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        {"problem": "p", "answer": 3, "truth": "3", "tokens": 7, "logprob": -2.5, "steps": [0.5, 0.25]},
        {"problem": "q", "answer": None, "right": False, "entropy": 0.1, "score": 0.75, "finished": False},
        {"problem": "p", "answer": "4", "truth": 3, "seconds": 1.5},
    )
    first, second = read_attempts([path])
    assert (first.id, first.right) == ("p", (True, False))
    assert first.candidates[0].steps == (0.5, 0.25)
    assert (first.candidates[0].answer, first.candidates[0].tokens, first.candidates[0].logprob) == (
        3,
        7,
        -2.5,
    )
    assert math.isnan(first.candidates[0].entropy)
    assert first.candidates[1].seconds == 1.5
    assert second.right == (False,)
    assert second.candidates[0].steps == (0.75,)
    assert not second.candidates[0].finished
    assert [len(one.candidates) for one in read_attempts([path], limit=1)] == [1, 1]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_of_attempts(tmp_path: Path, ending: str) -> None:
    table = pl.DataFrame(
        {
            "problem_id": ["p", "p"],
            "problem": ["What?", "What?"],
            "answer": ["5", None],
            "ground_truth": ["5", "5"],
            "time": [1.5, 2.0],
            "total_tokens": [10, 20],
            "steps": ["[0.5, 1]", None],
        }
    )
    path = tmp_path / f"a.{ending}"
    table.write_csv(path) if ending == "csv" else table.write_parquet(path)
    [found] = read_attempts([path])
    assert found.id == "p"
    assert found.right == (True, False)
    assert found.candidates[0].steps == (0.5, 1.0)
    assert [one.tokens for one in found.candidates] == [10, 20]
    assert [one.answer for one in found.candidates] == [5, None]


def test_the_harness_of_qwen(tmp_path: Path) -> None:
    row = {"idx": 4, "pred": ["1", "2"], "score": [True, False], "pred_score": [[0.0], [-math.log(3)]]}
    [found] = read_attempts([lines(tmp_path / "a.jsonl", row)])
    # Logits: through a sigmoid.
    assert [one.steps for one in found.candidates] == [(0.5,), (pytest.approx(0.25),)]
    assert (found.id, found.right) == ("4", (True, False))
    del row["pred_score"]
    [found] = read_attempts([lines(tmp_path / "b.jsonl", row)])
    assert found.candidates[0] == Candidate(1)


def test_far_logits_are_probabilities(tmp_path: Path) -> None:
    rows = [{"problem": "p", "answer": 1, "right": True, "score": score} for score in (-1e4, 1e4, math.nan)]
    [found] = read_attempts([lines(tmp_path / "a.jsonl", *rows)])
    assert [one.steps[0] for one in found.candidates[:2]] == [0, 1]
    assert math.isnan(found.candidates[2].steps[0])


def test_a_contests_journal_is_judged_by_a_list(tmp_path: Path) -> None:
    sample = {"type": "sample", "id": "p", "tokens": 4, "logprob": -1.0}
    journal = lines(
        tmp_path / "journal.jsonl",
        {"type": "contest", "name": "x"},
        {**sample, "attempt": 2, "answer": 3, "finish": "stop"},
        {**sample, "attempt": 0, "answer": None, "finish": "length"},
        {**sample, "attempt": 1, "answer": 9, "finish": "aborted"},
        {"type": "answer", "id": "p", "answer": 3, "scores": [[2.0, 0.5, 0.25], [1.0, 0.1]]},
    )
    answers = tmp_path / "answers.csv"
    answers.write_text("id,problem,answer\np,What?,3\n")
    [found] = read_attempts([journal], answers=answers)
    assert found.right == (True, False)
    assert [one.steps for one in found.candidates] == [(0.5, 0.25), ()]
    assert found.candidates[0].logprob == -1.0
    with pytest.raises(ValueError, match=r"line 2: nothing tells whether it is right"):
        read_attempts([journal])


def test_the_journal_of_a_trace_run(tmp_path: Path) -> None:
    sample = {"type": "sample", "problem": "abcdefabcdef", "attempt": 0, "answer": "7", "gold": "7"}
    path = lines(tmp_path / "t.jsonl", {**sample, "correct": True, "ids": [1, 2, 3], "logprob": -0.5})
    [found] = read_attempts([path])
    assert found.right == (True,)
    assert (found.candidates[0].tokens, found.candidates[0].logprob) == (3, -1.5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": 1, "right": True}, "no problem_id"),
        ({"problem": "p", "right": True}, "no problem_id"),
        ({"problem": "p", "answer": 1}, "nothing tells whether it is right"),
        ({"problem": "p", "answer": 1, "right": True, "tokens": "many"}, "tokens is 'many', not a number"),
        ({"problem": "p", "answer": 1, "right": True, "steps": ["a"]}, "are no numbers"),
        ({"idx": 1, "pred": ["1"], "score": [True, False]}, "lists of one length"),
        ({"pred": ["1"], "score": [True]}, "has no idx"),
        ([1], "is a list, not an object"),
        ({"type": "answer", "id": "p", "scores": [3]}, "no list of an attempt and its steps"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"line 1.*{message}"):
        read_attempts([lines(tmp_path / "a.jsonl", row)])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, data, message in (
        ("a.jsonl", b"{", "line 1 is no JSON"),
        ("b.parquet", b"no", "cannot be read"),
        ("c.txt", b"", "expected .jsonl, .parquet or .csv"),
        ("d.jsonl", b"\n", "no attempt in"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_attempts([tmp_path / name])
    with pytest.raises(ValueError, match="do not exist"):
        read_attempts([tmp_path / "none.csv"])
    for data in (b"", b"a,b\n1,2\n", b"\xff"):
        (tmp_path / "answers.csv").write_bytes(data)
        with pytest.raises(ValueError, match="answers"):
            read_attempts([tmp_path / "d.jsonl"], answers=tmp_path / "answers.csv")


def test_real_attempts(shared_data: Callable[[str], Path]) -> None:
    problems = read_attempts([shared_data("samples/gpt-oss-120b_cot_aimo3.parquet")])
    assert len(problems) == 10
    assert sum(sum(one.right) for one in problems) == 40
    # Neither log-probabilities nor entropies were recorded: lengths are all there is to weigh by.
    assert available(problems) == ("majority", "length")
