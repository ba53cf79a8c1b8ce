"""The bootstrap of problems and runs: its parts by hand and against scipy, and what its intervals cover."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics.accuracy import accuracy_interval
from benchmarks.statistics.paired import paired_difference
from benchmarks.statistics.resampling import bootstrap, run_effects, student_quantile
from submission.selection.statistics import Interval

Population = Callable[[np.random.Generator, int], "np.ndarray[tuple[int], np.dtype[np.float64]]"]
POPULATIONS: dict[str, Population] = {
    "spread": lambda random, size: random.beta(2, 1, size),
    "easy or hard": lambda random, size: random.beta(0.5, 0.5, size),
    "some never": lambda random, size: np.where(random.random(size) < 0.1, 0, 0.98),
    "alike": lambda random, size: np.full(size, 0.7),
}
"""Chances of a right answer, problem by problem."""


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 31, 200, 4_999])
@pytest.mark.parametrize("chance", [0.6, 0.975, 0.9999])
def test_student_is_scipys(chance: float, freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student_quantile(chance, freedom) == pytest.approx(stats.t.ppf(chance, freedom), rel=1e-8)


def test_student_out_of_range() -> None:
    with pytest.raises(ValueError, match="out of range"):
        student_quantile(0.5, 3)
    with pytest.raises(ValueError, match="out of range"):
        student_quantile(0.9, 0)


def test_run_effects_by_hand() -> None:
    # Problems add nothing here: runs of 1, 0.5 and 0 with no noise keep their whole spread,
    # and sqrt(3/2) makes the draws' variance that of the runs.
    table = np.array([[1.0, 1, 1, 1], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0]])
    assert run_effects(table) == pytest.approx([0.5 * math.sqrt(1.5), 0, -0.5 * math.sqrt(1.5)])
    # MSR = 4 * (0.25^2 * 2) / 1 = 0.5; MSE = 4 of 0.0625 twice less the effects: 1/6; 2/3 is left.
    table = np.array([[1.0, 1, 1, 0], [0, 1, 0, 0]])
    noise = table - table.mean(axis=0) - (table.mean(axis=1) - 0.5)[:, None]
    assert float((noise**2).sum()) / 3 == pytest.approx(1 / 6)
    assert run_effects(table) == pytest.approx([0.25 * math.sqrt(2 / 3 * 2), -0.25 * math.sqrt(2 / 3 * 2)])


def test_runs_that_chance_sets_apart_have_no_effects() -> None:
    assert not run_effects(np.array([[1.0, 0, 1, 0], [0, 1, 0, 1]])).any()
    assert not run_effects(np.array([[1.0, 0, 1]])).any() and not run_effects(np.array([[1.0], [0]])).any()


def test_many_problems_have_scipys_percentiles() -> None:
    """What is added for few problems is nothing for a thousand."""
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).beta(2, 1, size=1_000)
    expected = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=4_000, rng=np.random.default_rng(2)
    ).confidence_interval
    found = accuracy_interval(values.reshape(1, -1))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_few_problems_are_as_doubtful_as_student_says() -> None:
    values = np.array([0.2, 0.4, 0.5, 0.5, 0.6, 0.8])
    found = accuracy_interval(np.tile(values, (1, 1)), repeats=40_000)
    half = 2.5706 * float(np.std(np.append(values, [0.0, 1.0]), ddof=1)) / math.sqrt(8)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)


def test_one_problem_says_nothing_of_others() -> None:
    assert accuracy_interval(np.array([[1.0], [0]])) == Interval(0.5, 0, 1)
    assert paired_difference(np.array([[0.0]]), np.array([[1.0]])) == Interval(1, -1, 1)


def test_a_run_for_all_problems_alike_widens_the_interval() -> None:
    """Two runs 0.2 apart, whatever the problem: 500 problems do not tell what a third run does."""
    random = np.random.default_rng(0)
    apart = np.stack([random.random(500) < 0.8, random.random(500) < 0.6]).astype(float)
    alike = np.stack([random.random(500) < 0.7, random.random(500) < 0.7]).astype(float)
    wide, narrow = accuracy_interval(apart), accuracy_interval(alike)
    assert wide.high - wide.low > 0.15 and narrow.high - narrow.low < 0.08


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=3), min_size=1, max_size=4),
)
def test_an_interval_holds_its_mean_and_pairs_turn_round(
    first: list[list[float]], second: list[list[float]]
) -> None:
    one, other = np.array(first), np.array(second)
    for found in (
        accuracy_interval(one, repeats=50),
        bootstrap([(1.0, one)], prior=0.5, repeats=50, seed=1, level=0.5),
    ):
        assert 0 <= found.low <= found.mean <= found.high <= 1
    found, turned = paired_difference(one, other, repeats=50), paired_difference(other, one, repeats=50)
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert turned.mean == pytest.approx(-found.mean)


# --- coverage ----------------------------------------------------------------------------------------


def covered(name: str, problems: int, runs: int, times: int) -> float:
    """How often an accuracy's interval holds the mean of all problems there are."""
    random = np.random.default_rng(problems + runs)
    truth = float(POPULATIONS[name](np.random.default_rng(9), 1_000_000).mean())
    inside = 0
    for number in range(times):
        chances = POPULATIONS[name](random, problems)
        right = (random.random((runs, problems)) < chances).astype(float)
        found = accuracy_interval(right, repeats=300, seed=number)
        inside += found.low <= truth <= found.high
    return inside / times


def pairs_covered(name: str, problems: int, runs: int, times: int) -> float:
    """The same of a difference: the second run turns three tenths of what the first gets wrong."""
    random = np.random.default_rng(problems + runs)
    truth = 0.3 * (1 - float(POPULATIONS[name](np.random.default_rng(9), 1_000_000).mean()))
    inside = 0
    for number in range(times):
        chances = POPULATIONS[name](random, problems)
        first = (random.random((runs, problems)) < chances).astype(float)
        second = (random.random((runs, problems)) < chances + 0.3 * (1 - chances)).astype(float)
        found = paired_difference(first, second, repeats=300, seed=number)
        inside += found.low <= truth <= found.high
    return inside / times


@pytest.mark.parametrize(("problems", "runs"), [(20, 1), (20, 3), (50, 3)])
def test_intervals_cover(problems: int, runs: int) -> None:
    """Of 200, 95 % with a standard error of 1.5 %."""
    assert 0.91 <= covered("spread", problems, runs, 200) <= 0.99
    assert 0.91 <= pairs_covered("spread", problems, runs, 200) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize(("problems", "runs"), [(20, 1), (20, 2), (20, 5), (50, 2), (200, 1), (200, 3)])
def test_intervals_cover_whatever_the_problems(name: str, problems: int, runs: int) -> None:
    """Of 500, with a standard error of 1 %; where few problems differ the safe side is all there is."""
    assert 0.92 <= covered(name, problems, runs, 500) <= 0.995
    assert 0.92 <= pairs_covered(name, problems, runs, 500) <= 0.999
