import json
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from submission.contest import read_known
from submission.journal import Journal, read_journal


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "j.jsonl")
    journal.write({"type": "sample", "text": "lone \ud800 surrogate\n\0"})
    journal.write({"type": "answer", "answer": 7})
    journal.close()
    content = read_journal(tmp_path / "deep" / "j.jsonl")
    assert content.records == [
        {"type": "sample", "text": "lone \ud800 surrogate\n\0"},
        {"type": "answer", "answer": 7},
    ]
    assert content.damaged == 0


def test_a_line_cut_in_the_middle_loses_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    first = Journal(path)
    first.write({"n": 1})
    first.write({"n": 2})
    first.close()
    path.write_bytes(path.read_bytes()[:-4])
    second = Journal(path)
    second.write({"n": 3})
    second.close()
    content = read_journal(path)
    assert content.records == [{"n": 1}, {"n": 3}]
    assert content.damaged == 1


@given(st.binary(max_size=200))
def test_garbage_never_raises(data: bytes) -> None:
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    path = folder / f"aimo-journal-{os.getpid()}.jsonl"
    path.write_bytes(data + b'\n{"n": 1}\n')
    try:
        assert {"n": 1} in read_journal(path).records
    finally:
        path.unlink()


def test_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none.jsonl").records == []


def test_a_full_disk_costs_the_journal_not_the_contest(tmp_path: Path) -> None:
    # RLIMIT_FSIZE makes every further write fail, as a full disk does; in a child, since it is for life.
    code = f"""
import resource, signal
from pathlib import Path
from submission.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path({str(tmp_path / "j.jsonl")!r}))
journal.write({{"n": 1}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
journal.write({{"n": 2, "text": "x" * 1000}})
journal.write({{"n": 3}})
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.write({{"n": 4}})
print(journal.failed)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout
    assert [record["n"] for record in read_journal(tmp_path / "j.jsonl").records] == [1, 4]


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
