"""Problem files: what is read, and what is refused with which message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from submission.problems import MAX_PROBLEM_CHARS, Problem, load_problems
from submission.settings import ContestRules
from tests.examples import examples

RULES = ContestRules()
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=60)
ROWS = st.lists(
    st.tuples(TEXTS, TEXTS, st.integers(0, 99_999)), min_size=1, max_size=8, unique_by=lambda row: row[0]
)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_frame(folder: Path, name: str, columns: dict[str, Any]) -> Path:
    frame, path = polars.DataFrame(columns), folder / name
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path)
    return path


def test_csv_with_line_breaks_quotes_and_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeffid,problem,answer\r\n007,"Let ""x"" = 1,\r\nfind x.",1\r\n\r\n8,Größe?,70.0\r\n'
    assert load_problems(write(tmp_path, "p.csv", text), RULES) == [
        Problem("007", 'Let "x" = 1,\r\nfind x.', 1),
        Problem("8", "Größe?", 70),
    ]


def test_jsonl_with_numeric_ids_and_question_column(tmp_path: Path) -> None:
    lines = [
        {"id": 60, "question": "a?", "answer": 70.0, "url": None},
        {"id": 7, "question": "b?", "answer": 3},
    ]
    path = write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    assert load_problems(path, RULES) == [Problem("60", "a?", 70), Problem("7", "b?", 3)]


def test_no_answer_column_means_no_gold(tmp_path: Path) -> None:
    path = write(tmp_path, "p.csv", "id,problem\n000aaa,What is $1-1$?\n")
    assert load_problems(path, RULES) == [Problem("000aaa", "What is $1-1$?", None)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_written_problems_come_back(tmp_path: Path, suffix: str, rows: list[tuple[str, str, int]]) -> None:
    rows = [row for row in rows if row[0].strip() and row[1].strip()] or [("a", "b", 0)]
    ids, texts, answers = map(list, zip(*rows, strict=True))
    path = write_frame(tmp_path, f"p.{suffix}", {"id": ids, "problem": texts, "answer": answers})
    assert load_problems(path, RULES) == [Problem(*row) for row in rows]


@pytest.mark.parametrize("ids", [[1, 2], ["1", "2"]])
def test_parquet_ids_become_text(tmp_path: Path, ids: list[Any]) -> None:
    path = write_frame(tmp_path, "p.parquet", {"id": ids, "problem": ["a", "b"], "answer": [1.0, 2.0]})
    assert load_problems(path, RULES) == [Problem("1", "a", 1), Problem("2", "b", 2)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a valid csv"),
        ("id,problem,answer\n", "holds no problems"),
        ("id,problem\n\n\n", "holds no problems"),
        ("id;problem;answer\na;b;3\n", r"columns 'id' and 'problem' .* found: 'id;problem;answer'"),
        ("name,problem\na,b\n", r"columns 'id' and 'problem' .* found: 'name', 'problem'"),
        ("id,text\na,b\n", "found: 'id', 'text'"),
        ("id,problem\na,b\nc,d\na,e\n", "row 3: id 'a' was used in row 1 already"),
        ("id,problem\n,b\n", "row 1: None is not an id"),
        ("id,problem\n  ,b\n", "row 1: '  ' is not an id"),
        ("id,problem\na,b\nc,\n", r"row 2 \(id 'c'\): the problem is empty"),
        ('id,problem\na,"  \n"\n', r"row 1 \(id 'a'\): the problem is empty"),
        (f"id,problem\na,{'x' * 100_000}\n", r"row 1 \(id 'a'\): the problem has 100,000 characters"),
        ("id,problem,answer\na,b,100000\n", "row 1 .*'100000' is not an integer from 0 to 99999"),
        ("id,problem,answer\na,b,-1\n", "'-1' is not an integer"),
        ("id,problem,answer\na,b,70.5\n", "'70.5' is not an integer"),
        ("id,problem,answer\na,b,1e4000000000\n", "'1e4000000000' is not an integer"),
        ("id,problem,answer\na,b,nan\n", "'nan' is not an integer"),
        ("id,problem,answer\na,b,2\nc,d,\n", "row 2 .*None is not an integer"),
        ("id,problem,answer\na,b,2\nc,d\n", "row 2 .*None is not an integer"),
        ("id,problem,answer\na,b,\\frac{1}{2}\n", "is not an integer"),
        ("id,problem,answer\na,b, c,2\n", "not a valid csv file: found more fields"),
        ('id,problem,answer\na,"What is 1+1,2\nb,"What is 2+2",4\n', "not a valid csv"),
        ('id,problem,answer\na,b,2\nc,"What is 2+2,4\n', "not a valid csv"),
        ("id,problem\na,é\n".encode("latin-1"), "not UTF-8 text: byte 0xe9 in line 2"),
        ("id,problem\na,b\n".encode("utf-16"), "not UTF-8 text: byte 0xff in line 1"),
    ],
)
def test_bad_csv_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, "p.csv", content)
    with pytest.raises(ValueError, match=message) as caught:
        load_problems(path, RULES)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 450


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a valid jsonl"),
        ('{"id": 1, "problem": "x"}\n{"id": 2, "prob\n', "line 2: "),
        ('[{"id": 1, "problem": "x"}]\n', "line 1 is not an object"),
        ("[" * 100_000 + "\n", "not a valid jsonl"),
        ('{"id": [1], "problem": "x"}\n', "row 1: .* is not an id"),
        ('{"id": 1.5, "problem": "x"}\n', r"row 1: 1\.5 is not an id"),
        ('{"id": true, "problem": "x"}\n', "row 1: True is not an id"),
        ('{"id": 1, "problem": {"a": 1}}\n', r"row 1 \(id '1'\): the problem must be text, not dict"),
        ('{"id": 1, "problem": "x"}\n{"id": 2, "problem": null}\n', "row 2 .* the problem is empty"),
        (
            '{"id": 1, "problem": "x"}\n{"id": 2, "problem": "y", "answer": 3}\n',
            "row 1 .*None is not an integer",
        ),
        ('{"id": 1, "problem": "x", "answer": true}\n', "True is not an integer"),
        ('{"id": 1, "problem": "x", "answer": 1e30}\n', "is not an integer"),
        (b'{"id": 1, "problem": "\xff"}\n', "not UTF-8 text: byte 0xff in line 1"),
    ],
)
def test_bad_jsonl_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_problems(write(tmp_path, "p.jsonl", content), RULES)


def test_missing_file_folder_and_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv cannot be read: No such file"):
        load_problems(tmp_path / "none.csv", RULES)
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        load_problems(tmp_path, RULES)
    with pytest.raises(ValueError, match=r"must end in \.csv, \.jsonl or \.parquet"):
        load_problems(write(tmp_path, "p.xlsx", "id,problem\na,b\n"), RULES)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_problems_or_a_clear_error(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    columns = {"id": ["a", "b"], "problem": ["What is 1+1?", 'Say "x",\n y'], "answer": [2, 3]}
    raw = bytearray(write_frame(tmp_path, f"whole.{suffix}", columns).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path, f"p.{suffix}", bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    try:
        problems = load_problems(path, RULES)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert all(problem.id and problem.text.strip() for problem in problems)


def test_limit_is_on_characters_and_reachable(tmp_path: Path) -> None:
    at_limit = "é" * MAX_PROBLEM_CHARS
    path = write_frame(tmp_path, "p.parquet", {"id": ["a"], "problem": [at_limit]})
    assert load_problems(path, RULES)[0].text == at_limit


def test_range_is_the_contests(tmp_path: Path) -> None:
    path = write(tmp_path, "p.csv", "id,problem,answer\na,b,1000\n")
    assert load_problems(path, RULES)[0].answer == 1000
    with pytest.raises(ValueError, match="from 0 to 999"):
        load_problems(path, ContestRules(answer_max=999))


def test_real_contest_files(shared_data: Callable[[str], Path]) -> None:
    reference = load_problems(shared_data("aimo3/reference.csv"), RULES)
    assert len(reference) == 10
    assert reference[0].id == "0e644e"
    assert reference[0].answer == 336
    assert all(problem.answer is not None for problem in reference)
    for name in ("aime/aime24.jsonl", "aime/aime25.jsonl"):
        assert len(load_problems(shared_data(name), ContestRules(answer_max=999))) == 30
    with pytest.raises(ValueError, match="columns 'id' and 'problem'"):
        load_problems(shared_data("gsm8k/test.jsonl"), RULES)
