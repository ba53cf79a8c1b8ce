import asyncio
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.best_of_n import MAJORITY, ORACLE, accuracy_at, calibration_curves, curves, figures, rules_of
from benchmarks.prm import main, plot, section, section_with_plot
from benchmarks.process_bench import (
    Solution,
    fingerprint,
    judge,
    read_solutions,
    score_solutions,
)
from benchmarks.shared import ROOT
from kit.attempts import read_attempts
from submission.prm.transformers_scorer import TransformersScorer
from submission.selection.candidate import Candidate
from submission.selection.fitting import LabelledProblem, fit, is_right
from submission.selection.rule import PLAIN, Rule
from submission.selection.statistics import majority_at_k, selection_loss
from tests.submission.prm.checkpoints import classifier

QWEN = "samples/qwen2.5-math-7b_math_8samples.jsonl"


# --- choosing among attempts -------------------------------------------------------------------------


def problem(name: str, answers: Sequence[int], steps: Sequence[tuple[float, ...]]) -> LabelledProblem:
    found = tuple(Candidate(answer, steps=one) for answer, one in zip(answers, steps, strict=True))
    return LabelledProblem(name, found, tuple(answer == 1 for answer in answers))


MADE = [
    problem("a", [1, 2, 2], [(0.9, 0.8), (0.9, 0.1), (0.3, 0.2)]),
    problem("b", [1, 1, 2], [(0.6, 0.9), (0.5, 0.7), (0.9, 0.2)]),
]


def row(rows: Sequence[dict[str, object]], name: str, size: int) -> dict[str, object]:
    [found] = [one for one in rows if one["name"] == name and one["size"] == size]
    return found


def test_the_harness_figures_of_real_samples_to_the_digit(shared_data: Callable[[str], Path]) -> None:
    problems = read_attempts([shared_data(QWEN)])
    assert len(problems) == 100
    # pass@1 is the mean over all eight samples; the first sample alone is right on 90.
    assert sum(sum(one.right) for one in problems) / 8 == 91.0
    assert sum(one.right[0] for one in problems) == 90
    assert sum(is_right(one, PLAIN) for one in problems) == 93
    assert sum(is_right(one, Rule(method="best_of_n")) for one in problems) == 94
    assert sum(any(one.right) for one in problems) == 96
    rows = curves(problems, repeats=100)
    names = (MAJORITY, "best of N, score", "weighted, score", ORACLE)
    assert [row(rows, name, 8)["mean"] for name in names] == pytest.approx([0.93, 0.94, 0.94, 0.96])
    assert [row(rows, name, 1)["mean"] for name in names] == pytest.approx([0.91] * 4)
    loss = selection_loss([one.right for one in problems], [is_right(one, PLAIN) for one in problems])
    assert loss == pytest.approx(0.03)


def test_the_reward_models_weight_is_not_shown_to_help(shared_data: Callable[[str], Path]) -> None:
    # One problem more in a hundred is no proof.
    found = fit(read_attempts([shared_data(QWEN)])).calibration
    assert not found.helps
    assert found.rule == PLAIN
    assert found.interval[0] <= 0


def test_curves_by_hand() -> None:
    rows = curves(MADE, repeats=100)
    assert {one["size"] for one in rows} == {1, 2, 3}
    # Of a, pairs (1, 2), (1, 2), (2, 2): ties go to the 1 that came first. Of b: (1, 1), (1, 2), (1, 2).
    assert row(rows, MAJORITY, 2)["mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert row(rows, MAJORITY, 3)["mean"] == pytest.approx(1 / 2)
    assert row(rows, ORACLE, 3)["mean"] == 1
    assert row(rows, "best of N, min", 3)["mean"] == 1
    assert row(rows, "best of N, min", 3)["gain"] == pytest.approx(1 / 2)
    # last: a 0.8, 0.1, 0.2; b 0.9, 0.7, 0.2. mean: a 0.85, 0.5, 0.25; b 0.75, 0.6, 0.55.
    assert row(rows, "best of N, last", 3)["mean"] == row(rows, "best of N, mean", 3)["mean"] == 1
    assert row(rows, MAJORITY, 3)["gain"] == 0


def test_the_plain_vote_is_majority_at_k() -> None:
    for one in MADE:
        for size in (1, 2, 3):
            answers = [candidate.answer for candidate in one.candidates]
            assert accuracy_at(one, PLAIN, size) == pytest.approx(majority_at_k(answers, one.right, size))


def test_rules_go_by_what_was_recorded() -> None:
    assert list(rules_of(MADE)) == [
        MAJORITY,
        *(
            f"{kind}, {how}"
            for how in ("min", "mean", "last", "product")
            for kind in ("best of N", "weighted")
        ),
    ]
    single = [problem("a", [1, 2], [(0.5,), (0.6,)])]
    assert list(rules_of(single)) == [MAJORITY, "best of N, score", "weighted, score"]
    assert list(rules_of([problem("a", [1, 2], [(), ()])])) == [MAJORITY]


def test_reliability_of_candidates_by_hand() -> None:
    found = {one["name"]: one for one in calibration_curves(MADE)}
    # Last scores 0.8 and 0.1, 0.2 of a, 0.9, 0.7 and 0.2 of b: each bin's accuracy is 1 above 0.5, else 0.
    assert found["last"]["ece"] == pytest.approx((0.2 + 0.1 + 0.2 + 0.1 + 0.3 + 0.2) / 6)
    assert calibration_curves([problem("a", [1, 2], [(), ()])]) == []


@pytest.mark.slow
def test_the_page_and_the_plot(tmp_path: Path) -> None:
    subset = {"first": [made("p", ["one"], -1), made("q", ["one", "two"], 1)]}
    scores = {one.key: [0.9, 0.2][: len(one.steps)] for one in subset["first"]}
    found = {
        "samples": [figures("made", MADE, folds=2)],
        "process_bench": {"model": "tiny", **judge(subset, scores, "first")},
    }
    found = json.loads(json.dumps(found))
    text = "\n".join(section(found))
    assert "| made | 2 | 3 | 50.0% | " in text
    assert "| oracle | 100.0% | +50.0%" in text
    assert "| first | 2 | 1.000 | 1.000 | 1.000 |" in text
    assert section_with_plot(found)[-1].endswith("(docs/prm.png)")
    for name in ("a.png", "b.png"):
        plot(found, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


# --- ProcessBench ------------------------------------------------------------------------------------


def made(name: str, steps: list[str], label: int) -> Solution:
    return Solution(id=name, problem=f"What is {name}?", steps=steps, label=label)


def test_the_threshold_of_the_first_subset_judges_the_others() -> None:
    subsets = {
        "tuned": [made("a", ["x", "y"], 1), made("b", ["x", "y"], -1)],
        "other": [made("c", ["x", "y"], 0), made("d", ["x", "y"], 1), made("e", ["x"], -1)],
    }
    scores = dict(
        zip(
            [one.key for found in subsets.values() for one in found],
            [[0.9, 0.2], [0.8, 0.6], [0.3, 0.9], [0.3, 0.1], [0.5]],
            strict=True,
        )
    )
    found = judge(subsets, scores, "tuned")
    # Between 0.2 and 0.6; at 0.4 c is right, d names the first step too early, e is left alone.
    assert found["threshold"] == pytest.approx(0.4)
    tuned, other = found["subsets"]
    assert (tuned["f1"], tuned["error_accuracy"], tuned["correct_accuracy"]) == (1, 1, 1)
    assert (other["error_accuracy"], other["correct_accuracy"]) == (0.5, 1)
    assert other["f1"] == pytest.approx(2 / 3)
    # Labelled steps of `other`: 0.3 wrong; 0.3 right, 0.1 wrong; 0.5 right. What follows an error is not.
    assert other["ece"] == pytest.approx((2 * abs(0.5 - 0.3) + 0.1 + 0.5) / 4)
    with pytest.raises(ValueError, match="on 'none', but there are: tuned, other"):
        judge(subsets, scores, "none")


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    solutions = [made(name, [f"{name} one", f"{name} two"], 0) for name in "abc"]
    journal = tmp_path / "deep" / "journal.jsonl"
    asked: list[str] = []

    def score(question: str, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(question)
        return [[0.5, math.nan] for _ in texts]

    with pytest.raises(KeyboardInterrupt):
        score_solutions(solutions, score, journal, "model", Console(quiet=True))
    with journal.open("ab") as file:
        file.write(b'{"model": "model", "key": "cut o')
    asked.clear()
    found = score_solutions(solutions, score, journal, "model", Console(quiet=True))
    assert asked == ["What is c?"]
    assert [found[one.key][0] for one in solutions] == [0.5] * 3
    assert all(math.isnan(found[one.key][1]) for one in solutions)
    asked.clear()
    assert len(score_solutions(solutions[:2], score, journal, "other model", Console(quiet=True))) == 2
    assert len(asked) == 2
    score_solutions(solutions, score, journal, "model", Console(quiet=True))
    assert len(asked) == 2, "all are there"


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_files_of_solutions(tmp_path: Path, ending: str) -> None:
    rows = [{"id": "a", "problem": "p", "steps": ["x"], "label": -1, "generator": "g"}]
    path = tmp_path / f"a.{ending}"
    path.write_text(json.dumps(rows if ending == "json" else rows[0]))
    assert read_solutions(path) == [Solution(id="a", problem="p", steps=["x"], label=-1)]
    for change, message in (
        ({"label": 1}, "label 1, but there are 1 steps"),
        ({"label": "0"}, "label"),
        ({"steps": []}, "steps"),
    ):
        path.write_text(json.dumps([{**rows[0], **change}] if ending == "json" else {**rows[0], **change}))
        with pytest.raises(ValueError, match=f"no subset of ProcessBench.*{message}"):
            read_solutions(path)
    path.write_text("[]" if ending == "json" else "")
    with pytest.raises(ValueError, match="holds no solution"):
        read_solutions(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_solutions(path)
    with pytest.raises(ValueError, match="does not exist"):
        read_solutions(tmp_path / "none.json")


def test_the_real_subsets_are_read(shared_data: Callable[[str], Path]) -> None:
    for name, size, right in (("gsm8k", 400, 193), ("math", 1_000, 406)):
        found = read_solutions(shared_data(f"processbench/{name}.json"))
        assert (len(found), sum(one.label == -1 for one in found)) == (size, right)
        # Predictors that know the answer, or nothing.
        oracle = {one.key: [float(index != one.label) for index in range(len(one.steps))] for one in found}
        assert judge({name: found}, oracle, name)["subsets"][0]["f1"] == 1
        blind = {one.key: [0.5] * len(one.steps) for one in found}
        assert judge({name: found}, blind, name)["subsets"][0]["f1"] == 0


def test_another_checkpoint_has_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert fingerprint(tmp_path) != before


@pytest.mark.slow
def test_a_checkpoint_scores_process_bench(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "tiny")
    rows = [
        {"id": "a", "problem": "1 + 1?", "steps": ["1 + 1 = 2.", "So 2."], "label": -1},
        {"id": "b", "problem": "1 + 2?", "steps": ["1 + 2 = 4.", "1. So 4.\n2. Yes.", "4."], "label": 0},
    ]
    (tmp_path / "first.json").write_text(json.dumps(rows))
    (tmp_path / "second.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    samples = tmp_path / "s.jsonl"
    samples.write_text("".join(json.dumps({"problem": p, "answer": 1, "right": True}) + "\n" for p in "aabb"))
    out, journal = tmp_path / "figures.json", tmp_path / "journal.jsonl"

    def measure() -> None:
        main(
            samples=[samples],
            model=folder,
            process_bench=[tmp_path / "first.json", tmp_path / "second.jsonl"],
            journal=journal,
            out=out,
        )

    measure()
    found = json.loads(out.read_text())
    first, second = found["process_bench"]["subsets"]
    assert (first["subset"], second["subset"]) == ("first", "second")
    assert first["f1"] == second["f1"]
    lines = journal.read_text().splitlines()
    assert len(lines) == 2, "equal solutions are scored once"
    assert [len(json.loads(line)["scores"]) for line in lines] == [2, 3]
    # The scorer itself, called the plain way.
    scorer = TransformersScorer(folder)
    asyncio.run(scorer.start())
    [scores] = scorer.step_scores_many("1 + 1?", ["1 + 1 = 2.\n\nSo 2."])
    assert json.loads(lines[0])["scores"] == pytest.approx(scores)
    # Nothing is scored again.
    before = out.read_text()
    measure()
    assert journal.read_text().splitlines() == lines
    assert out.read_text() == before
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="config"):
        measure()


def test_nothing_to_measure_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.prm", "--process-bench", str(tmp_path / "x.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--process-bench needs --model" in done.stderr
