import math
from random import Random

import pytest

from submission.selection.candidate import Candidate
from submission.selection.fitting import LabelledProblem, available, fit, fold_of, grid
from submission.selection.rule import PLAIN, Rule


def problem(name: str, answers: list[int], scores: list[float], right: int = 1) -> LabelledProblem:
    found = tuple(Candidate(answer, steps=(score,)) for answer, score in zip(answers, scores, strict=True))
    return LabelledProblem(name, found, tuple(answer == right for answer in answers))


def made(problems: int, hard: float, informed: float, seed: int) -> list[LabelledProblem]:
    """Three candidates each: the right answer is outvoted with chance `hard`, told with `informed`."""
    random = Random(seed)
    found = []
    for index in range(problems):
        answers = [1, 2, 2] if random.random() < hard else [1, 1, 2]
        told = random.random() < informed
        scores = [(0.9 if answer == 1 else 0.1) if told else random.random() for answer in answers]
        found.append(problem(f"p{index}", answers, scores))
    return found


def test_scores_that_know_help() -> None:
    found = fit(made(60, hard=0.4, informed=1.0, seed=0))
    assert found.calibration.helps
    assert found.calibration.accuracy == 1
    assert found.calibration.majority == sum(found.plain) / 60
    assert found.calibration.gain == pytest.approx(1 - found.calibration.majority)
    assert found.calibration.rule.method in ("prm", "best_of_n")
    low, high = found.calibration.interval
    assert 0 < low < found.calibration.gain < high


@pytest.mark.parametrize("seed", range(5))
def test_scores_that_know_nothing_do_not_help(seed: int) -> None:
    found = fit(made(80, hard=0.3, informed=0.0, seed=seed), repeats=1_000)
    assert not found.calibration.helps
    assert found.calibration.rule == PLAIN


def test_scores_that_mislead_leave_the_plain_vote() -> None:
    problems = [problem(f"p{index}", [1, 1, 2], [0.1, 0.1, 0.9]) for index in range(20)]
    found = fit(problems, repeats=100)
    assert found.fold_rules == (PLAIN,) * 5
    assert found.calibration.parameters == PLAIN
    assert not found.calibration.helps
    assert found.calibration.gain == 0


def test_a_few_wins_are_not_enough() -> None:
    # Five wins and no loss in 20: the bootstrap's interval is above zero, McNemar's test is at 2 / 32.
    problems = [problem(f"w{index}", [1, 2, 2], [0.9, 0.1, 0.1]) for index in range(5)]
    problems += [problem(f"p{index}", [1, 1, 2], [0.9, 0.9, 0.1]) for index in range(15)]
    found = fit(problems).calibration
    assert found.gain == 0.25
    assert found.interval[0] > 0
    assert found.p_value == pytest.approx(2 / 32)
    assert not found.helps
    assert fit(problems, level=0.9).calibration.helps, "at another level"


def test_the_held_out_problem_has_no_say() -> None:
    # Only w profits from the scores; judged by the rule of the others it stays with the plain vote.
    problems = [problem("w", [1, 2, 2], [0.9, 0.1, 0.1])]
    problems += [problem(f"p{index}", [1, 1, 2], [0.1, 0.1, 0.9]) for index in range(9)]
    found = fit(problems, folds=10, repeats=100)
    assert found.chosen[0] is False
    assert found.calibration.gain == 0


def test_the_order_of_the_problems_does_not_matter() -> None:
    problems = made(40, hard=0.4, informed=0.5, seed=3)
    there, back = fit(problems), fit(problems[::-1])
    assert there.chosen == back.chosen[::-1]
    assert there.fold_rules == back.fold_rules
    assert there.calibration.gain == back.calibration.gain
    assert fit(problems) == there


def test_folds_are_even_and_by_seed() -> None:
    ids = [f"p{index}" for index in range(13)]
    folds = fold_of(ids, 5, seed=1)
    assert sorted(folds.count(fold) for fold in range(5)) == [2, 2, 3, 3, 3]
    assert fold_of(ids, 5, seed=2) != folds
    assert fold_of(ids[::-1], 5, seed=1) == folds[::-1]


def test_methods_are_those_that_know_something() -> None:
    bare = LabelledProblem("a", (Candidate(1), Candidate(None)), (True, False))
    assert available([bare]) == ("majority",)
    full = LabelledProblem("b", (Candidate(1, 5, -3.0, 0.1, (0.5,)), Candidate(2, 9)), (True, False))
    assert available([full]) == ("majority", "prm", "best_of_n", "logprob", "entropy", "length")
    odd = LabelledProblem("c", (Candidate(1, 5, math.nan, math.inf, (math.nan,)),), (True,))
    assert available([full, odd]) == ("majority", "prm", "best_of_n", "logprob", "entropy", "length")
    assert available([bare, bare, full]) == ("majority",)


def test_the_grid_goes_from_mild_to_sharp() -> None:
    assert grid(["majority"]) == [PLAIN]
    rules = grid(["best_of_n", "logprob"])
    assert rules[:2] == [PLAIN, Rule(method="best_of_n", aggregate="min")]
    assert rules[5] == Rule(method="logprob", temperature=4.0, blend=0.05)
    assert rules[-1] == Rule(method="logprob", temperature=0.03, blend=1.0)
    assert len(set(rules)) == len(rules)


def test_problems_without_an_answer_count_as_wrong() -> None:
    none = LabelledProblem("none", (Candidate(None),), (False,))
    found = fit([none, LabelledProblem("empty", (), ()), problem("p", [1], [0.5])], folds=2, repeats=100)
    assert found.plain == (False, False, True)


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="1 problems in 5 folds"):
        fit([problem("a", [1], [0.5])])
    with pytest.raises(ValueError, match="in 1 folds"):
        fit([problem("a", [1], [0.5])], folds=1)
    with pytest.raises(ValueError, match="problem 'a' stands twice"):
        fit([problem("a", [1], [0.5])] * 2, folds=2)
