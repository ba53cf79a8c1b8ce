import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.data.readers import read
from kit.data.records import Record
from kit.data.steps.verify import BAD_GOLD, NO_ANSWER, NO_GOLD, WRONG, Verify

SharedData = Callable[[str], Path]


def test_reasons_are_told_apart() -> None:
    records = [
        Record(problem="a", answer="4", completion="so \\boxed{4}"),
        Record(problem="b", answer="4", completion="so \\boxed{5}"),
        Record(problem="c", answer="", completion="so \\boxed{5}"),
        Record(problem="d", answer="3+", completion="so \\boxed{5}"),
        Record(problem="e", answer="4", completion="let me think"),
        Record(problem="f", answer="4"),
        Record(problem="g", answer=r"\frac{\sqrt{2}}{2}", completion=r"\boxed{\frac{1}{\sqrt{2}}}"),
    ]
    outcome = Verify().apply(records)
    assert [record.problem for record in outcome.kept] == ["a", "f", "g"]
    assert [record.correct for record in outcome.kept] == [True, None, True]
    assert {drop.record.problem: drop.reason for drop in outcome.dropped} == {
        "b": WRONG,
        "c": NO_GOLD,
        "d": BAD_GOLD,
        "e": NO_ANSWER,
    }
    assert outcome.dropped[0].detail == "'5', gold '4'"
    assert outcome.notes["comparisons by algebra"] == 1
    assert records[0].correct is None  # the input is as it was


def test_algebra_that_never_ends_is_stopped() -> None:
    begun = time.monotonic()
    records = [Record(problem="p", answer=r"x^{2}+\sqrt{3}", completion=r"\boxed{9^{9^{9^{9}}}+\sqrt{x}}")]
    outcome = Verify(timeout=0.3).apply(records)
    assert [drop.reason for drop in outcome.dropped] == [WRONG]
    assert time.monotonic() - begun < 60


@pytest.mark.slow
def test_order_does_not_depend_on_workers() -> None:
    records = [
        Record(
            problem=f"{i}",
            answer=r"\frac{\sqrt{2}}{2}",
            completion=rf"\boxed{{\frac{{1}}{{\sqrt{{{2 + i % 2}}}}}}}",
        )
        for i in range(12)
    ]
    alone, two = Verify(workers=1).apply(records), Verify(workers=2).apply(records)
    assert alone.kept == two.kept
    assert [record.problem for record in alone.kept] == ["0", "2", "4", "6", "8", "10"]
    assert alone.dropped == two.dropped


def test_every_gsm8k_solution_verifies(shared_data: SharedData) -> None:
    records = list(read(str(shared_data("gsm8k/train.jsonl"))))
    outcome = Verify().apply(records)
    assert len(outcome.kept) == 7473
    assert all(record.correct for record in outcome.kept)


def test_math_solutions_against_their_answers(shared_data: SharedData) -> None:
    outcome = Verify().apply(list(read(str(shared_data("math/math500.jsonl")))))
    assert len(outcome.kept) == 500


@pytest.mark.slow
def test_agrees_with_the_harness_that_graded_the_samples(shared_data: SharedData) -> None:
    records = list(read(str(shared_data("samples/qwen2.5-math-7b_math_8samples.jsonl"))))
    outcome = Verify(timeout=20).apply(records)
    kept = {record.id: record for record in outcome.kept}
    verdicts = Counter((record.correct, record.id in kept) for record in records)
    # The one it does not agree on: 10000 against the gold answer 10{,}000, which the harness counts as wrong.
    assert verdicts == {(True, True): 728, (False, False): 71, (False, True): 1}


@pytest.mark.parametrize("text", ["\\boxed{" * 100_000, "{" * 2_000_000, "answer is " * 200_000])
def test_huge_completions_take_linear_time(text: str) -> None:
    begun = time.monotonic()
    outcome = Verify().apply([Record(problem="p", answer="5", completion=text)])
    assert not outcome.kept
    assert time.monotonic() - begun < 30
