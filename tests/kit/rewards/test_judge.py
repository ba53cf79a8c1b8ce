"""The judge: weighted sums, missing parts, counters, and the same result however many workers."""

import math
import random
import time
from collections.abc import Sequence
from typing import Any, Literal

import psutil
import pytest

from kit.grpo.rollout import Completion
from kit.grpo.signals import SIGNALS
from kit.rewards.judge import Judge, Sample, Scored
from kit.rewards.recipe import RewardSection
from submission.answers import parse_gold

HALF_BAD = "tests.kit.rewards.functions:half_bad"


def completion(
    text: str, tokens: int = 10, finish: Literal["stop", "length"] = "stop", calls: int = 0, errors: int = 0
) -> Completion:
    ids = tuple(range(tokens))
    return Completion(ids, (0.0,) * tokens, (1,) * tokens, text, finish, calls, errors)


def sample(text: str, gold: str | int | None = 42, group: int = 0, **others: Any) -> Sample:
    known = None if gold is None else parse_gold(gold)
    return Sample("What?", known, completion(text, **others), group)


def section(**values: Any) -> RewardSection:
    return RewardSection.parse(values, "test")


def score(samples: Sequence[Sample], limit: int = 100, **values: Any) -> list[Scored]:
    with Judge(section(**values), limit) as judge:
        return judge.score(samples)


def test_the_total_is_the_weighted_sum() -> None:
    samples = [
        sample(r"\boxed{42}", tokens=90, calls=4, errors=1),
        sample(r"\boxed{41} \boxed{40}", tokens=80),
        sample(r"\boxed{42}", tokens=100, finish="length"),
    ]
    weights: dict[str, Any] = {
        "answer": 1.0,
        "format": 0.5,
        "tool_success": 2.0,
        "overlong": 0.25,
        "shorter_when_right": 1.0,
    }
    scored = score(samples, overlong_buffer=20, **weights)
    assert scored[0].parts == {
        "answer": 1.0,
        "format": 1.0,
        "shorter_when_right": 0.0,
        "tool_success": 0.75,
        "overlong": -0.5,
    }
    # Lengths 90, 80, 100: lambda is 0, 0.5 and -0.5, and the second is wrong.
    assert [one.parts["shorter_when_right"] for one in scored] == [0.0, 0.0, -0.5]
    assert [one.total for one in scored] == pytest.approx([1 + 0.5 + 1.5 - 0.125, 0.0, 0.5 - 0.25 - 0.5])
    assert [one.correct for one in scored] == [True, False, False]
    assert [one.reason for one in scored] == ["", "", ""]


def test_options_reach_their_rewards() -> None:
    [one] = score(
        [sample(r"a</think>\boxed{42}", finish="length", tokens=50)], format=1.0, accept_cut_off=True
    )
    assert one.parts == {"answer": 1.0, "format": 1.0}
    [one] = score([sample(r"a</think>\boxed{42}")], format=1.0, think=True)
    assert one.parts["format"] == 0.0
    [one] = score([sample(r"a</think>\boxed{42}")], format=1.0, think=True, think_in_prompt=True)
    assert one.parts["format"] == 1.0
    cosine = {"right_at_zero": 4.0, "right_at_max": 2.0}
    [one] = score([sample(r"\boxed{42}", tokens=50)], length_cosine=1.0, cosine=cosine)
    assert one.parts["length_cosine"] == pytest.approx(3.0)


def test_repetition_looks_at_what_the_model_wrote() -> None:
    # Tool output repeats itself; the model's own tokens 1 2 1 2 have two distinct bigrams of three.
    made = Completion((1, 2, 9, 9, 9, 1, 2), (0.0,) * 7, (1, 1, 0, 0, 0, 1, 1), "", "stop")
    [one] = score([Sample("", parse_gold(1), made, 0)], answer=0, repetition=1.0, ngram=2)
    assert one.total == pytest.approx(-1 / 3)


def test_groups_are_kept_apart() -> None:
    lengths = {0: (10, 20), 1: (1000, 1010, 1020)}
    samples = [sample(r"\boxed{42}", group=g, tokens=n) for g, many in lengths.items() for n in many]
    order = list(range(len(samples)))
    random.Random(3).shuffle(order)
    scored = score([samples[index] for index in order], 2000, answer=0, shorter_when_right=1.0)
    by_sample = dict(zip(order, scored, strict=True))
    assert [by_sample[index].total for index in range(5)] == [0.5, -0.5, 0.5, 0.0, -0.5]


def test_without_gold_what_needs_it_is_missing() -> None:
    samples = [sample(r"\boxed{42}", None), sample(r"\boxed{42}")]
    first, second = score(samples, length_cosine=1.0, shorter_when_right=1.0, format=1.0)
    assert math.isnan(first.total)
    assert first.correct is None
    assert [name for name, value in first.parts.items() if math.isnan(value)] == [
        "answer",
        "length_cosine",
        "shorter_when_right",
    ]
    assert "answer: none: the problem has no gold answer" in first.reason
    assert math.isnan(second.parts["shorter_when_right"])  # its group cannot be ranked
    assert second.parts["answer"] == 1.0
    [one] = score([sample(r"\boxed{42}", None)], answer=0, format=1.0)
    assert (one.total, one.correct) == (1.0, None)


def test_a_failed_function_costs_its_sample_and_is_counted() -> None:
    samples = [sample(text) for text in (r"\boxed{42}", r"bad \boxed{42}", r"\boxed{41}", "none")]
    with Judge(section(functions={HALF_BAD: 2.0}), 100) as judge:
        scored = judge.score(samples)
        report = judge.report()
    assert [one.total for one in scored[::2]] == [1.5, 0.5]
    assert math.isnan(scored[1].total)
    assert math.isnan(scored[3].total)
    assert scored[1].parts["answer"] == 1.0
    assert scored[1].reason.startswith(f"{HALF_BAD}: error: KeyError: 'no such thing' (functions.py:")
    counts = {kind: report[f"{HALF_BAD}.{kind}"] for kind in ("calls", "error", "none", "timeout", "crash")}
    assert counts == {"calls": 4, "error": 1, "none": 1, "timeout": 0, "crash": 0}


def test_a_function_gets_what_is_promised_and_a_weight_of_0_starts_nothing() -> None:
    path = "tests.kit.rewards.functions:everything"
    functions = {path: 1.0, "tests.no_such_module:f": 0.0}
    [one] = score([sample("x")], answer=0, functions=functions)
    assert one.parts == {path: 1.0}


def test_bad_settings_are_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"module 'tests\.no_such_module'"):
        Judge(section(functions={HALF_BAD: 1.0, "tests.no_such_module:f": 1.0}), 100)
    assert not [child for child in psutil.Process().children() if "rewards" in " ".join(child.cmdline())]
    with pytest.raises(ValueError, match=r"rewards.prm is 1, but there is no process reward model"):
        Judge(section(prm=1.0), 100)
    with pytest.raises(ValueError, match="overlong_buffer is 4096 tokens, over the 100"):
        Judge(section(overlong=1.0), 100)
    with pytest.raises(ValueError, match="max_completion_tokens is 0"):
        Judge(section(), 0)


def test_prm_scores_are_combined() -> None:
    def scorer(problem: str, text: str) -> list[float]:
        assert problem == "What?"
        return [float(word) for word in text.split()]

    with Judge(section(answer=0, prm=2.0, prm_aggregate="mean"), 100, scorer) as judge:
        good, bad, empty = judge.score([sample("0.5 1.0"), sample("0.5 nan"), sample("")])
    assert good.total == 1.5
    assert math.isnan(bad.total)
    assert math.isnan(empty.total)
    assert empty.reason == "prm: none: it has no finite score"


def test_a_thousand_integers_never_leave_this_process() -> None:
    text = "Let us think about it for a while, step by step.\n" * 40
    samples = [sample(f"{text}\\boxed{{{number}}}", number - number % 2) for number in range(1000)]
    with Judge(section(), 100) as judge:
        judge.score(samples[:10])
        start = time.process_time()
        scored = judge.score(samples)
        seconds = time.process_time() - start
        assert judge.report()["answer.comparisons"] == 0
    assert [one.total for one in scored] == [1.0, 0.0] * 500
    assert seconds < 1.0


@pytest.mark.slow
def test_algebra_is_left_to_the_checker_and_workers_change_nothing() -> None:
    pairs: list[tuple[str, str | int]] = [
        (r"\boxed{2\sqrt{2}}", r"\sqrt{8}"),
        (r"\boxed{3\sqrt{2}}", r"\sqrt{8}"),
        (r"\boxed{x+1}", "1+x"),
        (r"\boxed{7}", 7),
        ("nothing", r"\sqrt{8}"),
    ]
    samples = [
        sample(text, gold, group=index, tokens=index + 1) for index, (text, gold) in enumerate(pairs * 2)
    ]
    length = "tests.kit.rewards.functions:length"
    results = []
    for workers, order in ((1, 1), (3, -1)):
        values = {
            "functions": {length: 0.01, HALF_BAD: 1.0},
            "length_cosine": 0.5,
            "symbolic": {"workers": workers, "timeout": 60.0},
            "sandbox": {"workers": workers},
        }
        with Judge(section(**values), 100) as judge:
            results.append(judge.score(samples[::order])[::order])
            report = judge.report()
        assert report["answer.comparisons"] >= 6
        assert report["answer.timeouts"] == report["answer.crashes"] == 0
    assert results[0] == results[1]
    assert [one.correct for one in results[0]] == [True, False, True, True, False] * 2


@pytest.mark.slow
def test_the_checkers_processes_are_deaf_to_a_launchers_signals() -> None:
    samples = [sample(r"\boxed{2\sqrt{2}}", r"\sqrt{8}")]
    others = set(psutil.Process().children())
    with Judge(section(symbolic={"workers": 1, "timeout": 60.0}), 100) as judge:
        assert judge.score(samples)[0].correct
        (checker,) = set(psutil.Process().children()) - others
        for process in (checker, *checker.children(recursive=True)):
            for number in SIGNALS:
                process.send_signal(number)
        assert judge.score(samples)[0].correct
        assert set(psutil.Process().children()) - others == {checker}
        report = judge.report()
        assert (report["answer.comparisons"], report["answer.crashes"]) == (2, 0)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    assert not checker.is_running()


def test_a_closed_judge_says_so() -> None:
    judge = Judge(section(functions={HALF_BAD: 1.0}), 100)
    judge.close()
    judge.close()
    with pytest.raises(RuntimeError, match=r"shutdown|closed"):
        judge.score([sample("x")])
