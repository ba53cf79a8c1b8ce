import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.selection.statistics import (
    attempt_correlation,
    bootstrap_interval,
    effective_attempts,
    expected_at_k,
    majority_at_k,
    mcnemar,
    mean_interval,
    pass_at_k,
    selection_loss,
)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(5, 2, 1) == pytest.approx(2 / 5)
    # 3 of the 10 pairs hold no right one.
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert pass_at_k(5, 2, 4) == 1
    assert pass_at_k(5, 0, 5) == 0
    for case in ((5, 2, 0), (5, 2, 6), (5, 6, 1), (5, -1, 1)):
        with pytest.raises(ValueError, match="not defined"):
            pass_at_k(*case)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_what_enumeration_gives(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    counted = expected_at_k(len(right), k, lambda subset: float(any(right[index] for index in subset)))
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(counted)


def test_majority_at_k_by_hand() -> None:
    # Pairs (2, 1), (2, 1), (1, 1): ties go to the 2 that came first.
    assert majority_at_k([2, 1, 1], [False, True, True], 2) == pytest.approx(1 / 3)
    assert majority_at_k([1, 1, 2], [True, True, False], 2) == 1
    assert majority_at_k([1, 1, 2], [True, True, False], 1) == pytest.approx(2 / 3)
    assert majority_at_k([2, 1, 1], [False, True, True], 3) == 1
    assert majority_at_k([None, None], [False, False], 2) == 0


def test_drawn_subsets_agree_with_all_of_them() -> None:
    random = Random(1)
    right = [random.random() < 0.4 for _ in range(12)]
    answers = [0 if one else random.randint(1, 3) for one in right]

    def voted(subset: object) -> float:
        assert isinstance(subset, tuple | list)
        assert list(subset) == sorted(subset), "in order of arrival"
        return float(sum(answers[index] == 0 for index in subset) >= 3)

    exact = expected_at_k(12, 5, voted)
    drawn = expected_at_k(12, 5, voted, enumerated=1, draws=4_000, seed=2)
    # 4 standard errors of a share of 4,000 draws.
    assert drawn == pytest.approx(exact, abs=4 * 0.5 / math.sqrt(4_000))
    assert drawn == expected_at_k(12, 5, voted, enumerated=1, draws=4_000, seed=2)
    with pytest.raises(ValueError, match="13 of 12"):
        expected_at_k(12, 13, voted)


def test_selection_loss_by_hand() -> None:
    right = [[True, False], [False, True], [False, False], [True, True]]
    assert selection_loss(right, [True, False, False, True]) == pytest.approx(1 / 4)


def test_correlation_by_hand() -> None:
    assert attempt_correlation([[True, True], [False, False]]) == 1
    assert attempt_correlation([[True, False], [False, True]]) == -1, "the least with two attempts"
    # Rates 1, 1/2, 0 of two attempts: MSB = (1/2 + 1/2) / 2, MSW = 1/2 / 3, so (1/2 - 1/6) / (1/2 + 1/6).
    assert attempt_correlation([[True, True], [True, False], [False, False]]) == pytest.approx(1 / 2)
    assert math.isnan(attempt_correlation([[True, True], [True, True]]))


def test_correlation_of_a_beta_binomial() -> None:
    # A rate drawn from Beta(1, 1) has 1 / (1 + 1 + 1); from Beta(3, 2) 1/6. Unequal numbers of attempts.
    random = Random(0)
    for alpha, beta in ((1, 1), (3, 2)):
        table = []
        for index in range(4_000):
            rate = random.betavariate(alpha, beta)
            table.append([random.random() < rate for _ in range(4 + index % 8)])
        assert attempt_correlation(table) == pytest.approx(1 / (alpha + beta + 1), abs=0.03)


def test_a_correlation_takes_two_of_both() -> None:
    for table in ([[True, False]], [[True], [False]], []):
        with pytest.raises(ValueError, match="takes two of both"):
            attempt_correlation(table)


def test_effective_attempts_by_hand() -> None:
    assert effective_attempts(8, 1 / 7) == pytest.approx(4)
    assert effective_attempts(8, 1) == 1
    assert effective_attempts(8, 0) == effective_attempts(8, -0.1) == 8
    assert math.isnan(effective_attempts(8, math.nan))


def test_mcnemar_by_hand() -> None:
    def p_value(only_first: int, only_second: int, both: int = 3) -> float:
        first = [True] * only_first + [False] * only_second + [True] * both
        second = [False] * only_first + [True] * only_second + [True] * both
        assert mcnemar(first, second) == mcnemar(second, first)
        return mcnemar(first, second)

    assert p_value(6, 0) == pytest.approx(2 / 64)
    assert p_value(5, 1) == pytest.approx(2 * (1 + 6) / 64)
    assert p_value(1, 1) == 1
    assert p_value(0, 0) == 1


def test_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, size=400)
    found = mean_interval(values.tolist(), repeats=5_000)
    half = 1.96 * values.std() / 20
    assert (found.mean, found.low, found.high) == pytest.approx(
        (values.mean(), values.mean() - half, values.mean() + half), abs=0.01
    )
    narrow = mean_interval(values.tolist(), repeats=5_000, level=0.6827)
    assert narrow.high - narrow.low == pytest.approx(2 * values.std() / 20, abs=0.01)


def test_bootstrap_matches_the_standard_error_of_problems() -> None:
    # Equal seeds leave the problems' spread alone: ± 1.96 · sd / sqrt(problems) for a normal mean.
    row = np.random.default_rng(1).normal(0.1, 1.0, size=400)
    found = bootstrap_interval(np.stack([row] * 5), repeats=5_000, seed=0)
    half = 1.96 * row.std() / 20
    assert found.mean == pytest.approx(row.mean())
    assert (found.low, found.high) == pytest.approx((row.mean() - half, row.mean() + half), abs=0.006)


def test_bootstrap_matches_the_standard_error_of_seeds() -> None:
    # Equal problems leave the seeds' spread alone. Two seeds, 0 and 1: the mean of two draws is 0, ½ or 1
    # with chances ¼, ½, ¼, so that the 2.5 % and 97.5 % quantiles are the ends.
    table = np.array([[0.0] * 10, [1.0] * 10])
    assert bootstrap_interval(table, repeats=2_000, seed=0) == pytest.approx((0.5, 0.0, 1.0))


@given(st.floats(-1, 1), st.integers(1, 5), st.integers(1, 20))
def test_bootstrap_of_a_constant_is_the_constant(value: float, seeds: int, problems: int) -> None:
    found = bootstrap_interval(np.full((seeds, problems), value), repeats=50, seed=3)
    assert found == pytest.approx((value, value, value))


def test_bootstrap_is_the_same_with_the_same_seed() -> None:
    table = np.random.default_rng(2).normal(size=(3, 30))
    assert bootstrap_interval(table, repeats=100, seed=5) == bootstrap_interval(table, repeats=100, seed=5)
    assert bootstrap_interval(table, repeats=100, seed=5) != bootstrap_interval(table, repeats=100, seed=6)


def test_bootstrap_refuses_an_empty_table() -> None:
    with pytest.raises(ValueError, match="shape"):
        bootstrap_interval(np.zeros((0, 3)), repeats=10, seed=0)
