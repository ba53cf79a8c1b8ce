import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from submission.contest import read_known
from submission.engines.replay import load_recording
from submission.gateway.rehearsal import Row
from submission.journal import AnswerLine, FaultLine, Journal, SampleLine, read_journal
from submission.problems import Problem
from submission.reporting.results import collect


def fault(what: str, **more: object) -> dict[str, object]:
    return {"type": "fault", "what": what, **more}


def whats(path: Path) -> list[str]:
    return [line.what for line in read_journal(path).of(FaultLine)]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "j.jsonl"
    journal = Journal(path)
    journal.write({"type": "sample", "id": "a", "attempt": 1, "text": "lone \ud800 surrogate\n\0"})
    journal.write({"type": "answer", "answer": 7, "votes": [[7, 2]]})
    journal.close()
    content = read_journal(path)
    assert [line.text for line in content.of(SampleLine)] == ["lone \ud800 surrogate\n\0"]
    assert [(line.answer, line.votes) for line in content.of(AnswerLine)] == [(7, [[7, 2]])]
    assert content.damaged == 0


def test_a_line_cut_in_the_middle_loses_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    first = Journal(path)
    first.write(fault("1"))
    first.write(fault("2"))
    first.close()
    path.write_bytes(path.read_bytes()[:-4])
    second = Journal(path)
    second.write(fault("3"))
    second.close()
    assert whats(path) == ["1", "3"]
    assert read_journal(path).damaged == 1


KINDS = ["contest", "ready", "problem", "budget", "sample", "answer", "fault", "end", "?"]
NAMES = ("id", "key", "at", "elapsed", "attempt", "answer", "votes", "tokens", "seconds", "digest")
VALUES = st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
LINES = st.fixed_dictionaries({"type": st.sampled_from(KINDS)}, optional=dict.fromkeys(NAMES, VALUES))


@given(st.binary(max_size=200), st.lists(LINES, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_garbage_never_raises(tmp_path: Path, data: bytes, lines: list[dict[str, object]]) -> None:
    path = tmp_path / "j.jsonl"
    text = "".join(json.dumps(line) + "\n" for line in [*lines, fault("last")])
    path.write_bytes(data + b"\n" + text.encode())
    assert whats(path)[-1] == "last"
    read_known(path, 0, 99_999)
    load_recording(path)
    rows = [Row("a", 1, "", 1.0)]
    collect([Problem("a", "?", 1)], rows, path, name="n", time_limit=1.0, elapsed=1.0)


@pytest.mark.parametrize(
    "line",
    [
        '{"type": "answer", "answer": 1, "elapsed": 1' + "0" * 400 + "}",
        '{"type": "answer", "answer": NaN}',
        '{"type": "problem", "id": [1]}',
        '{"type": "sample", "id": "a"}',
        '{"type": "answer"}',
        '{"type": []}',
        "[" * 100_000,
    ],
)
def test_a_hostile_line_is_damage(tmp_path: Path, line: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(line + "\n" + json.dumps(fault("last")) + "\n")
    assert whats(path) == ["last"] and read_journal(path).damaged == 1


def test_a_journal_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none.jsonl").lines == []
    assert read_journal(tmp_path).lines == []


def test_a_full_disk_costs_the_journal_not_the_contest(tmp_path: Path) -> None:
    # RLIMIT_FSIZE makes every further write fail, as a full disk does; in a child, since it is for life.
    code = f"""
import resource, signal
from pathlib import Path
from submission.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path({str(tmp_path / "j.jsonl")!r}))
journal.write({{"type": "fault", "what": "1"}})
resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
journal.write({{"type": "fault", "what": "x" * 1000}})
journal.write({{"type": "fault", "what": "3"}})
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.write({{"type": "fault", "what": "4"}})
print(journal.failed)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout
    assert whats(tmp_path / "j.jsonl") == ["1", "4"]


def test_known_answers_are_checked_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    lines = [
        {"type": "answer", "key": "a", "answer": 5, "source": "vote", "elapsed": 12.5},
        {"type": "answer", "key": "b", "answer": 1_000_000, "source": "vote"},
        {"type": "answer", "key": "c", "answer": "7", "source": "vote"},
        {"type": "answer", "key": "d", "answer": True, "source": "vote"},
        {"type": "answer", "key": "e", "answer": 0, "source": "default"},
        {"type": "sample", "key": "f", "answer": 3},
        {"type": "answer", "answer": 3, "elapsed": "soon"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    known = read_known(path, 0, 99_999)
    assert known.answers == {"a": 5}
    assert known.elapsed == 12.5
