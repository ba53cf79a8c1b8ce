"""Speeds by hand, what samples shared their lives with, and the fit of a curve to made-up lives."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulator.throughput import (
    Curve,
    Measured,
    fit_curve,
    occupancies,
    parse_throughput,
    seconds_alone,
)


def test_a_curve_halves_each_speed_at_half() -> None:
    curve = Curve(100.0, 4.0)
    assert [curve.speed(count) for count in (1, 5, 9)] == [100.0, 50.0, pytest.approx(100 / 3)]
    assert 10_000 * curve.speed(10_000) == pytest.approx(400, rel=1e-3)


def test_a_table_is_linear_between_and_flat_in_total_beyond() -> None:
    table = parse_throughput("2:200, 4:320,8:400")
    assert [table.speed(count) for count in (1, 2, 3, 4, 8)] == [100, 100, 260 / 3, 80, 50]
    assert table.speed(16) == 25


@pytest.mark.parametrize("text", ["", "8", "8:fast", "0:10", "8:100,4:90", "4:100,8:300", "1:-5", "1:nan"])
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="throughput"):
        parse_throughput(text)


def test_a_curve_needs_positive_speeds() -> None:
    with pytest.raises(ValueError, match="positive"):
        Curve(100.0, 0.0)


def test_lives_are_cut_where_company_changes() -> None:
    assert occupancies([(0, 4), (1, 3), (2, 5)]) == [{1: 1, 2: 2, 3: 1}, {2: 1, 3: 1}, {1: 1, 2: 1, 3: 1}]
    assert occupancies([(0, 0), (0, 2)]) == [{}, {1: 2}]


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)).map(lambda ends: tuple(sorted(ends))), max_size=8)
)
def test_every_second_of_a_life_is_counted_once(lives: list[tuple[float, float]]) -> None:
    for (begin, end), found in zip(lives, occupancies(lives), strict=True):
        assert math.fsum(found.values()) == pytest.approx(end - begin, abs=1e-9)
        assert all(1 <= running <= len(lives) for running in found)


def test_seconds_alone_weigh_each_second_by_its_speed() -> None:
    assert seconds_alone({1: 2.0, 3: 4.0}, Curve(7.0, 2.0)) == 2 + 4 / 2
    assert seconds_alone({4: 8.0}, Measured(((1, 100), (4, 200)))) == 4


@pytest.mark.parametrize("half", [0.7, 5.0, 60.0])
def test_a_fit_finds_the_curve_that_made_the_samples(half: float) -> None:
    random, curve = Random(3), Curve(140.0, half)
    samples = []
    for _ in range(200):
        life = {random.randint(1, 16): random.uniform(1, 9) for _ in range(random.randint(1, 4))}
        tokens = curve.single * seconds_alone(life, curve) * math.exp(random.gauss(0, 0.05))
        samples.append((tokens, life))
    found = fit_curve(samples)
    assert found is not None
    assert found.curve.half == pytest.approx(half, rel=0.15)
    assert found.curve.single == pytest.approx(140, rel=0.05)


def test_a_fit_tells_the_wait_for_the_first_token_from_the_writing() -> None:
    random, curve = Random(5), Curve(100.0, 6.0)
    samples = []
    for _ in range(100):
        life = {random.randint(1, 12): random.uniform(0.5, 6) for _ in range(3)}
        samples.append((max(1.0, 100.0 * seconds_alone(life, curve) - 40), life))
    found = fit_curve(samples)
    assert found is not None
    assert found.first == pytest.approx(40, rel=0.1)
    assert found.curve.half == pytest.approx(6, rel=0.1)
    assert found.curve.single == pytest.approx(100, rel=0.05)


def test_a_machine_that_drifts_from_problem_to_problem_does_not_bend_the_curve() -> None:
    curve = Curve(100.0, 4.0)
    samples, groups = [], []
    for problem, (slow, most) in enumerate([(1.0, 6), (3.0, 12), (0.5, 10), (2.0, 8)]):
        for alone in (most // 2, most // 3, most // 4):
            life = {most: 1.0 * slow, alone: (3.0 + alone) * slow}
            samples.append((100.0 * seconds_alone(life, curve) / slow, life))
            groups.append(problem)
    found = fit_curve(samples, groups)
    assert found is not None and found.curve.half == pytest.approx(4, rel=0.02)
    pooled = fit_curve(samples)
    assert pooled is not None and pooled.curve.half != pytest.approx(4, rel=0.02)


def test_where_each_problem_had_one_company_the_problems_are_compared() -> None:
    curve = Curve(100.0, 4.0)
    lives = [{running: 1.0 + number} for running in (1, 8) for number in range(5)]
    samples = [(100.0 * seconds_alone(life, curve), life) for life in lives]
    found = fit_curve(samples, [*"aaaaabbbbb"])
    assert found is not None
    ratio = found.curve.speed(1) / found.curve.speed(8)
    assert ratio == pytest.approx(curve.speed(1) / curve.speed(8), rel=0.02)


def test_samples_of_one_concurrency_tell_no_curve() -> None:
    assert fit_curve([(100.0, {8: 1.0})] * 50) is None
    assert fit_curve([(100.0, {1: 1.0}), (100.0, {8: 2.0})]) is None
    assert fit_curve([(0.0, {1: 1.0}), (5.0, {})] * 20) is None
