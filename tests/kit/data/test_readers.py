import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.readers import HOPELESS_ROWS, MAX_LINE_BYTES, Unreadable, read
from kit.data.records import Record, read_records, write_records
from tests.examples import examples

ROWS = [{"problem": f"What is {i} + 1?", "answer": str(i + 1), "difficulty": 2.0} for i in range(3)]
SharedData = Callable[[str], Path]


def written(path: Path, *lines: bytes | dict[str, Any]) -> str:
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    )
    return str(path)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "data.json", "lines.json", "csv", "parquet"])
def test_every_format_gives_the_same_records(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"set.{suffix}"
    frame = polars.DataFrame(ROWS)
    writers: dict[str, Callable[[], object]] = {
        "jsonl": lambda: frame.write_ndjson(path),
        "json": lambda: path.write_text(json.dumps(ROWS)),
        "data.json": lambda: path.write_text(json.dumps({"data": ROWS, "version": 1})),
        "lines.json": lambda: frame.write_ndjson(path),
        "csv": lambda: frame.write_csv(path),
        "parquet": lambda: frame.write_parquet(path),
    }
    writers[suffix]()
    records = list(read(str(path), name="sums", licence="MIT"))
    assert [record.problem for record in records] == [row["problem"] for row in ROWS]
    assert [record.answer for record in records] == ["1", "2", "3"]
    assert {(record.source, record.licence) for record in records} == {("sums", "MIT")}
    assert records[0].level in ("2", "2.0")  # a CSV holds text


def test_limit_counts_records(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b"broken", *ROWS)
    assert [record.answer for record in read(path, limit=2)] == ["1", "2"]


def test_own_traces_come_back_as_they_were(tmp_path: Path) -> None:
    records = [
        Record(problem="p", answer="4", completion="c", source="s", pass_rate=0.5, correct=True, attempt=2),
        Record(problem="q", system="x", prompt_ids=(1, 2), completion_ids=(3,), logprob=-0.25, teacher="t"),
    ]
    path = tmp_path / "traces.jsonl"
    write_records(path, records)
    first, second = read(str(path))
    assert first == records[0]
    assert second == records[1].model_copy(update={"source": str(path)})


def test_mapping_replaces_what_the_reader_knows(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"q": "1 + 1?", "a": "two", "gold": 2, "problem": "not this"})
    (record,) = read(path, columns={"problem": "q", "completion": "a", "answer": "gold"})
    assert (record.problem, record.completion, record.answer) == ("1 + 1?", "two", "2")


def test_mapping_completes_what_the_reader_knows(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"problem": "p", "solution": "\\boxed{2}", "rate": 0.25})
    (record,) = read(path, columns={"pass_rate": "rate"})
    assert (record.problem, record.answer, record.pass_rate) == ("p", "2", 0.25)


def test_a_whole_solution_may_be_mapped_as_the_answer(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"q": "p", "s": "So it is " * 20 + "\\boxed{41}"})
    (record,) = read(path, columns={"problem": "q", "answer": "s"})
    assert record.answer == "41"


def test_a_wrong_mapping_names_the_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"q": "1", "a": "2"})
    with pytest.raises(ValueError, match=r"no column 'question'; the set has a, q"):
        list(read(path, columns={"problem": "question"}))
    with pytest.raises(ValueError, match=r"no field 'prolbem' to map; it has problem, answer"):
        read(path, columns={"prolbem": "q"})


HOSTILE: list[tuple[bytes, str]] = [
    (b'{"problem": "\\ud800"}', "problem"),
    (b'{"problem": "\xff\xfe"}', "not UTF-8"),
    (b'{"problem": null, "answer": "1"}', "problem is empty"),
    (b'{"problem": "  "}', "problem is empty"),
    (b'{"problem": 1e999}', "not a text"),
    (b'{"problem": ["a", "b"]}', "holds a list"),
    (b'{"problem": {"a": 1}}', "holds a dict"),
    (b'{"problem": "p", "pass_rate": 7}', "pass_rate"),
    (b'{"problem": "p", "completion_ids": "abc"}', "completion_ids"),
    (b'{"problem": "p", "answer": ' + b"9" * 5000 + b"}", "not JSON"),
    (b'{"problem": ' + b"[" * 100_000, "nested too deeply"),
    (b"[1, 2]", "a list, not an object"),
    (b'{"problem": "p"', "not JSON"),
    (b'{"other": 1}', "no known set"),
]


@pytest.mark.parametrize(("line", "reason"), HOSTILE)
def test_a_hostile_row_is_skipped_and_told(tmp_path: Path, line: bytes, reason: str) -> None:
    path = written(tmp_path / "a.jsonl", ROWS[0], line, ROWS[1])
    skipped: list[Unreadable] = []
    assert [record.answer for record in read(path, unreadable=skipped)] == ["1", "2"]
    assert [row.place for row in skipped] == ["line 2"]
    assert reason in skipped[0].reason
    assert len(skipped[0].reason) < 500


def test_skipped_rows_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    list(read(written(tmp_path / "a.jsonl", ROWS[0], b"{")))
    assert "1 rows skipped, 1 records read; line 2" in caplog.text


def test_a_line_too_long_is_skipped(tmp_path: Path) -> None:
    long = b'{"problem": "' + b"x" * MAX_LINE_BYTES + b'"}'
    skipped: list[Unreadable] = []
    (record,) = read(written(tmp_path / "a.jsonl", long, ROWS[0]), unreadable=skipped)
    assert record.answer == "1"
    assert skipped == [Unreadable("line 1", f"longer than {MAX_LINE_BYTES} bytes")]


def test_a_long_text_is_read(tmp_path: Path) -> None:
    (record,) = read(written(tmp_path / "a.jsonl", {"problem": "x" * 5_000_000}))
    assert len(record.problem) == 5_000_000


def test_a_set_without_a_readable_row_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no readable row \(2 unreadable\); line 1: not JSON"):
        list(read(written(tmp_path / "a.jsonl", b"a", b"b")))
    with pytest.raises(ValueError, match=r"no readable row \(0 unreadable\)"):
        list(read(written(tmp_path / "b.jsonl")))
    with pytest.raises(ValueError, match=f"none of the first {HOPELESS_ROWS} rows"):
        list(read(written(tmp_path / "c.jsonl", *[b"{"] * 2 * HOPELESS_ROWS)))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[" * 100_000, "cannot be parsed"),
        ("a.json", b"\xff", "not UTF-8"),
        ("a.json", b"3", "holds a int"),
        ("a.csv", b"", "no CSV"),
        ("a.csv", b"a,b\n1,2,3\n", "no CSV"),
        ("a.parquet", b"PAR1 not really", "no parquet"),
        ("a.txt", b"x", "suffix '.txt' is none of"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        list(read(str(tmp_path / name)))


@pytest.mark.parametrize("source", ["missing.jsonl", "./folder", "/nowhere/at all", "a/b/c"])
def test_a_missing_file_is_told_at_once(source: str) -> None:
    with pytest.raises(ValueError, match="there is no file or folder"):
        read(source)


def test_limit_must_not_be_negative(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit=-1"):
        read(written(tmp_path / "a.jsonl", ROWS[0]), limit=-1)


@settings(deadline=None, max_examples=examples(50))
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_row_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.mktemp("rows")
    keys = (
        "problem",
        "answer",
        "messages",
        "conversations",
        "generations",
        "question",
        "prompt",
        "completion",
    )
    rows = [{"problem": "p", key: value} for key in keys] + [{key: value, "response": value} for key in keys]
    records = list(read(written(folder / "a.jsonl", ROWS[0], *rows)))
    assert records[0].answer == "1"
    write_records(folder / "b.jsonl", records)
    assert list(read_records(folder / "b.jsonl")) == records


@pytest.mark.slow
@pytest.mark.parametrize("source", ["bespokelabs/Bespoke-Stratos-17k", "folder"])
def test_the_hub_library_reads_folders_and_says_when_it_is_offline(tmp_path: Path, source: str) -> None:
    (tmp_path / "folder").mkdir()
    for split in ("train", "test"):
        written(tmp_path / "folder" / f"{split}.jsonl", {"problem": f"in {split}", "answer": "1"})
    code = (
        "import sys; from kit.data.readers import read\n"
        "try: print([record.problem for record in read(sys.argv[1], split='test', limit=3)])\n"
        "except ValueError as error: print(error)"
    )
    root = Path(__file__).resolve().parents[3]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONPATH": str(root),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, source],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    if source == "folder":
        assert done.stdout.strip() == "['in test']"
    else:
        assert "bespokelabs/Bespoke-Stratos-17k (split 'test') can be read neither" in done.stdout
        assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "records", "problems", "answers", "completions"),
    [
        ("math/train_7474.json", 7474, 7474, 7470, 0),  # four rows have no answer
        ("math/math500.jsonl", 500, 500, 500, 500),
        ("gsm8k/test.jsonl", 1319, 1319, 1319, 1319),
        ("aime/aime_1983_2023.json", 975, 975, 975, 975),
        ("aime/aime24.jsonl", 30, 30, 30, 30),
        ("aime/aime25.jsonl", 30, 30, 30, 0),
        ("aimo3/reference.csv", 10, 10, 10, 0),
        ("processbench/math.json", 1000, 955, 0, 0),
        ("samples/qwen2.5-math-7b_math_8samples.jsonl", 800, 100, 800, 800),
        ("samples/gpt-oss-120b_cot_aimo3.parquet", 80, 10, 80, 80),
        ("samples/gpt-oss-20b_tir_aimo3.parquet", 80, 10, 80, 80),
    ],
)
def test_real_sets(
    shared_data: SharedData, name: str, records: int, problems: int, answers: int, completions: int
) -> None:
    skipped: list[Unreadable] = []
    found = list(read(str(shared_data(name)), unreadable=skipped))
    assert not skipped
    assert len(found) == records
    assert len({record.problem for record in found}) == problems
    assert sum(bool(record.answer) for record in found) == answers
    assert sum(bool(record.completion) for record in found) == completions


def test_real_sets_hold_what_their_files_say(shared_data: SharedData) -> None:
    aime = list(read(str(shared_data("aime/aime25.jsonl"))))
    assert aime[0].answer == "70"  # 70.0 in the file
    samples = list(read(str(shared_data("samples/qwen2.5-math-7b_math_8samples.jsonl"))))
    assert sum(record.correct is True for record in samples) == 728  # pass@1 of 91.0 %
    assert {record.attempt for record in samples} == set(range(8))
