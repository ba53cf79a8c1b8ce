"""The candidates of the step-score benchmark, and its section."""

import json
from pathlib import Path

import pytest

from benchmarks.prm_speed import CASES, Group, make_groups, read_problems, section

SAMPLES = [["a", "b", "c", "d"], ["e", "f", "g", "h", "i"]]


def test_candidates_share_what_their_case_says() -> None:
    made = {case: make_groups(case, [Group("p", SAMPLES)])[0].candidates for case in CASES}
    assert made == {
        "next step": [["a", "b", "c", "d"], ["a", "b", "c", "i"]],
        "roll-outs": [["a", "b", "c", "d"], ["a", "b", "g", "h", "i"]],
        "independent": SAMPLES,
    }
    with pytest.raises(ValueError, match="'beam' does not exist"):
        make_groups("beam", [Group("p", SAMPLES)])


def test_problems_have_samples_of_some_steps(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    long = "\n\n".join("abcd")
    rows = [{"question": str(n), "response": [long, long if n else "short"]} for n in range(5)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [group.problem for group in read_problems(path, 2, 2)] == ["1", "3"]
    with pytest.raises(ValueError, match="has 4 problems with 2 samples"):
        read_problems(path, 5, 2)


def test_the_section_shows_every_case() -> None:
    row = {
        "ours": 8.0,
        "card": 2.0,
        "ratio": 4.0,
        "least_ratio": 3.5,
        "gap": 2e-7,
        "tokens": 9,
        "distinct": 3,
    }
    lines = section({"model": "m", "groups": 1, "candidates": 8, "cases": dict.fromkeys(CASES, row)})
    assert "| next step | 9 | 3 | 2.00 | 8.00 | 4.00 | 3.50 | 4 |" in lines
    assert sum(line.startswith("| ") for line in lines) == 1 + len(CASES)
