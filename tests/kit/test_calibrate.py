import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.shared import ROOT
from kit.calibrate import chosen_methods, overview
from submission.selection.calibration import load_calibration, load_rule
from submission.selection.candidate import Candidate
from submission.selection.fitting import LabelledProblem
from submission.selection.rule import PLAIN


def attempts(path: Path, wins: int, problems: int) -> Path:
    """The vote is wrong on the first `wins` problems, and the score always right."""
    rows = []
    for index in range(problems):
        answers = [1, 2, 2] if index < wins else [1, 1, 2]
        rows += [
            {"problem": f"p{index}", "answer": one, "right": one == 1, "score": 0.9 if one == 1 else 0.2}
            for one in answers
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def calibrate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kit.calibrate", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_writes_what_the_contest_reads(tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    done = calibrate(str(attempts(tmp_path / "a.jsonl", 15, 30)), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "helps; written" in done.stdout
    found = load_calibration(out)
    assert (found.helps, found.gain, found.majority, found.problems) == (True, 0.5, 0.5, 30)
    assert load_rule(out) == found.parameters != PLAIN


def test_the_command_says_that_nothing_helps(tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    done = calibrate(str(attempts(tmp_path / "a.jsonl", 0, 10)), "--out", str(out), "--method", "prm")
    assert done.returncode == 0, done.stderr
    assert "the plain vote stays" in done.stdout
    assert load_rule(out) == PLAIN


def test_a_mistake_is_told_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    done = calibrate(str(attempts(tmp_path / "a.jsonl", 0, 10)), "--out", str(out), "--method", "entropy")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("they have values for: prm, best_of_n")
    assert not out.exists()


def test_methods_asked_for() -> None:
    assert chosen_methods([], ["majority", "prm", "length"]) == ["prm", "length"]
    assert chosen_methods(["length"], ["majority", "prm", "length"]) == ["length"]
    assert chosen_methods([], ["majority"]) == []
    for name in ("majority", "luck", "entropy"):
        with pytest.raises(ValueError, match=name):
            chosen_methods([name], ["majority", "prm"])


def test_the_overview_by_hand() -> None:
    two = (Candidate(1), Candidate(2))
    problems = [LabelledProblem("a", two, (True, True)), LabelledProblem("b", two, (True, False))]
    problems.append(LabelledProblem("c", two, (False, False)))
    said = overview(problems)
    # Correlation 1/2 (see the test of the statistics): 2 / (1 + 1/2).
    assert said == (
        "3 problems, 2 attempts: pass@1 50.0%, any attempt right 66.7%, correlation 0.50, "
        "so 2 attempts are worth 1.3"
    )
    assert overview([LabelledProblem("a", two[:1], (True,))]) == (
        "1 problems, 1 attempts: pass@1 100.0%, any attempt right 100.0%"
    )
