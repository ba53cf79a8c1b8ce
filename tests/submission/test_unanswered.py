import json
from pathlib import Path
from typing import Any

import pytest

from submission.reporting.unanswered import no_model_answered

PROBLEM = {"type": "problem", "id": "a"}
FAULT = {"type": "fault", "what": "engine given up", "error": "failed 10 times"}


def answer(source: str, identifier: str = "a") -> dict[str, Any]:
    return {"type": "answer", "id": identifier, "answer": 0, "source": source}


@pytest.mark.parametrize(
    ("lines", "marked"),
    [
        ([{"type": "contest"}], ""),
        ([PROBLEM, answer("vote")], ""),
        ([PROBLEM, answer("default"), answer("partial", "b")], ""),
        ([answer("journal")], ""),
        ([PROBLEM, answer("default"), answer("default", "b")], "all 2 answers are the default"),
        ([PROBLEM], "all 1 answers are the default"),
        ([PROBLEM, FAULT, FAULT, answer("default")], "first of 1 faults: engine given up: failed 10 times"),
        ([], "the journal holds no answer"),
    ],
)
def test_the_mark(tmp_path: Path, lines: list[dict[str, Any]], marked: str) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    mark = no_model_answered(journal)
    assert mark.startswith("NO MODEL ANSWERED") == bool(marked) and marked in mark


def test_a_journal_that_is_not_there_is_marked(tmp_path: Path) -> None:
    assert no_model_answered(tmp_path / "none.jsonl").startswith("NO MODEL ANSWERED")
