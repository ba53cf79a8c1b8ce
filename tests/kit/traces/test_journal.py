"""The journal of samples: what a kill leaves, what is believed when it is read back."""

import json
from pathlib import Path
from typing import Any

import pytest

from kit.traces.journal import SampleIndex, SampleLine, SampleWriter, load, parse_line

GOLDS = {"a" * 12: "1", "b" * 12: "2"}


def line(problem: str = "a", attempt: int = 0, **fields: Any) -> SampleLine:
    values = {
        "correct": True,
        "finish": "stop",
        "answer": "1",
        "gold": GOLDS[problem * 12],
        "text": "t",
        "ids": [1],
    }
    return SampleLine(problem=problem * 12, attempt=attempt, **{**values, **fields})


def write(path: Path, *lines: SampleLine) -> Path:
    writer = SampleWriter(path)
    for item in lines:
        writer.write(item)
    writer.close()
    return path


def test_lines_come_back_from_several_files(tmp_path: Path) -> None:
    first = write(tmp_path / "0", line(attempt=2), line("b", text="\U0001f600 \u2028\n\0"))
    second = write(tmp_path / "1", line(attempt=0, correct=False, finish="length", answer="", ids=[1, 2, 3]))
    index = SampleIndex.read([first, second], GOLDS)
    entries = index.of("a" * 12, 5)
    assert list(entries) == [0, 2]
    assert (entries[0].tokens, entries[0].finish, entries[0].answered, entries[0].correct) == (
        3,
        "length",
        False,
        False,
    )
    assert load(index.of("b" * 12, 5)[0]).text == "\U0001f600 \u2028\n\0"
    assert list(index.of("a" * 12, 2)) == [0]
    assert index.of("c" * 12, 5) == {}
    assert (index.damaged, index.foreign) == (0, 0)


def test_the_first_of_two_lines_for_one_sample_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "0", line(text="first"), line(text="second"))
    assert load(SampleIndex.read([path], GOLDS).of("a" * 12, 1)[0]).text == "first"


def test_a_cut_at_any_byte_loses_that_line_alone(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", line(attempt=0), line(attempt=1)).read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        assert list(SampleIndex.read([path], GOLDS).of("a" * 12, 9)) == [0]
        write(path, line(attempt=2))
        index = SampleIndex.read([path], GOLDS)
        entries = index.of("a" * 12, 9)
        # The line that lacks nothing but its newline is whole again.
        assert list(entries) == ([0, 2] if size < len(whole) - 1 else [0, 1, 2])
        assert load(entries[2]).attempt == 2


def test_samples_of_other_problems_or_other_golds_are_not_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "0", line(gold="7"), line("b"))
    index = SampleIndex.read([path], {"a" * 12: "1"})
    assert (index.foreign, index.of("a" * 12, 1), index.of("b" * 12, 1)) == (2, {}, {})


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": -1},
        {"attempt": "0"},
        {"correct": 1},
        {"finish": "aborted"},
        {"ids": [-1]},
        {"ids": [2**31]},
        {"ids": ["1"]},
        {"problem": "short"},
        {"logprob": float("nan")},
        {"type": "answer"},
    ],
)
def test_lines_that_are_no_samples_are_skipped(tmp_path: Path, change: dict[str, Any]) -> None:
    data = {**line().model_dump(), **change}
    path = tmp_path / "0"
    path.write_text(json.dumps(data) + "\n[]\n" + "[" * 100_000 + "\n\xff\n\n")
    index = SampleIndex.read([path], GOLDS)
    assert index.damaged == 4
    assert index.of("a" * 12, 9) == {}


def test_a_line_without_its_end_is_none() -> None:
    raw = json.dumps(line().model_dump()).encode()
    assert parse_line(raw) is None
    assert parse_line(raw + b"\n") == line()


def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"journal .*nothing cannot be read"):
        SampleIndex.read([tmp_path / "nothing"], {})
