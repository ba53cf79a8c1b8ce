"""Which run to submit: values by hand, agreement with scipy, and no verdict where there is nothing."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compare.deciding import decide, least_shown, sentences
from benchmarks.compare.permutation import sign_flip_test
from benchmarks.statistics.paired import least_difference
from submission.selection.statistics import Interval, mcnemar


def table(*rows: str) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Repeats as digits: "110" is right, right, wrong."""
    return np.array([[float(cell) for cell in row] for row in rows])


# --- the randomization test --------------------------------------------------------------------------


def test_signs_by_hand() -> None:
    # 1 + 0.5 = 1.5: of the four sums 1.5, 0.5, -0.5, -1.5 two are as far out.
    assert sign_flip_test(np.array([1.0, 0.5, 0.0])) == 0.5
    assert sign_flip_test(np.array([1.0, 1.0, 0.5])) == 0.25
    assert sign_flip_test(np.zeros(5)) == 1
    with pytest.raises(ValueError, match="not empty"):
        sign_flip_test(np.zeros(0))


def test_one_repeat_is_mcnemars_test() -> None:
    differences = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 5)
    assert sign_flip_test(differences) == mcnemar(
        [one < 0 for one in differences], [one > 0 for one in differences]
    )


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=7))
def test_it_counts_every_sign(values: list[float]) -> None:
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, values, strict=True)))
        for signs in product((1, -1), repeat=len(values))
    ]
    seen = abs(sum(values))
    assert sign_flip_test(np.array(values)) == pytest.approx(
        sum(one >= seen - 1e-9 for one in sums) / len(sums)
    )


def test_random_signs_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    differences = np.random.default_rng(1).choice([-1.0, -0.5, 0.5, 1.0], size=40, p=[0.1, 0.3, 0.4, 0.2])
    theirs = stats.permutation_test(
        (differences,),
        lambda x, axis: np.sum(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).pvalue
    ours = sign_flip_test(differences)
    assert 0.01 < ours < 0.5
    assert ours == pytest.approx(theirs, abs=4 * math.sqrt(2 * ours * (1 - ours) / 20_000))


# --- deciding ----------------------------------------------------------------------------------------


def test_a_clear_winner() -> None:
    found = decide({"A": table("0" * 12 + "1" * 8), "B": table("1" * 20)})
    assert found.told and found.contenders == ("B",) and found.order == ("B", "A")
    (pair,) = found.pairs
    assert (pair.better, pair.worse, pair.wins, pair.losses) == ("B", "A", 12, 0)
    assert pair.difference.mean == 0.6 and pair.p_value == pair.mcnemar == 2 / 2**12
    told = sentences(found, 20, {"A": 1.0, "B": 1.0})
    assert told[0].startswith("Submit B: 100.0 % right on 20 problems, 60.0 points (")
    assert told[0].endswith("above A, better on 12 problems and worse on 0 (p below 0.001).")


def test_few_problems_tell_nothing() -> None:
    """All five right against all five wrong: p is 0.0625, and the interval is in doubt, too."""
    found = decide({"A": table("00000"), "B": table("11111")})
    (pair,) = found.pairs
    assert pair.difference.mean == 1 and not pair.difference.clear_of_zero and pair.p_value == 2 / 2**5
    assert not found.told and found.contenders == ("B", "A")
    assert sentences(found, 5, {"A": 1.0, "B": 1.0})[0] == "The data cannot tell B and A apart."


def test_runs_alike_are_said_to_be() -> None:
    found = decide({"A": table("1100"), "B": table("1100")})
    told = " ".join(sentences(found, 4, {"A": 1.0, "B": 3.0}))
    assert "A and B are right on the same problems." in told
    assert "A takes the least time (1.0 min a contest)" in told


def test_the_same_score_on_other_problems() -> None:
    found = decide({"A": table("1100"), "B": table("0011")})
    told = " ".join(sentences(found, 4, {"A": 1.0, "B": 1.0}))
    assert "A and B have the same score" in told and "least time" not in told


def test_several_runs_pay_for_being_several() -> None:
    """9 against 1 is told of two runs (p 0.021) and not of three (three pairs: 0.0167)."""
    worse, better = table("0" * 9 + "1" + "1" * 30), table("1" * 9 + "0" + "1" * 30)
    two = decide({"A": worse, "B": better})
    assert two.told and two.level == 0.95 and two.pairs[0].p_value == pytest.approx(22 / 1024)
    three = decide({"A": worse, "B": better, "C": better})
    assert not three.told and three.level == pytest.approx(1 - 0.05 / 3)


def test_the_clearly_worse_are_named() -> None:
    bad, good, best = table("0" * 20 + "1" * 20), table("1" * 40), table("1" * 40)
    found = decide({"A": bad, "B": good, "C": best})
    assert found.contenders == ("B", "C") and not found.told
    told = " ".join(sentences(found, 40, dict.fromkeys("ABC", 1.0)))
    assert "A is clearly worse than B." in told
    found = decide({"A": bad, "B": good, "C": table("0" * 22 + "1" * 18)})
    assert "C is clearly worse, too." in sentences(found, 40, dict.fromkeys("ABC", 1.0))


def test_what_would_show_by_hand() -> None:
    first, second = table("0011", "0001"), table("1011", "1011")
    # A half width of 0.2 is 1.96 standard errors; 2.8 of them show four times in five.
    assert least_shown(first, second, Interval(0.3, 0.1, 0.5)) == pytest.approx(0.2 * 2.801585 / 1.959964)
    assert least_shown(first[:1], second[:1], Interval(0, 0, 0)) == least_difference(4, 0.25)
    assert least_shown(table("1", "1"), table("0", "1"), Interval(0.5, -1, 1)) == math.inf
    assert least_shown(first, first, Interval(0, -0.1, 0.1)) == math.inf


@pytest.mark.slow
def test_what_would_show_is_told_about_four_times_in_five() -> None:
    random = np.random.default_rng(2)
    least, told = [], 0
    for number in range(60):
        skill = random.beta(2, 2, size=100) * 0.6
        first, second = (
            np.asarray(random.random((3, 100)) < skill + more, dtype=np.float64) for more in (0, 0.13)
        )
        found = decide({"A": first, "B": second}, seed=number)
        least.append(found.pairs[0].least)
        told += found.told
    assert np.mean(least) == pytest.approx(0.13, abs=0.02)
    assert told >= 38  # fewer has a chance of 0.2 % at 80 %


def test_more_problems_are_asked_for_as_the_square() -> None:
    # 9 of 12 discordant problems in 120 are B's: 5 points.
    worse, better = table("1000" * 3 + "1" * 108), table("0111" * 3 + "1" * 108)
    (pair,) = decide({"A": worse, "B": better}).pairs
    assert not pair.clear and pair.difference.mean == pytest.approx(0.05)
    assert pair.needed == math.ceil(120 * (pair.least / 0.05) ** 2) == 308
    told = " ".join(sentences(decide({"A": worse, "B": better}), 120, {"A": 1.0, "B": 1.0}))
    assert "this one needs about 310 such problems" in told


def test_runs_of_one_skill_are_seldom_told_apart() -> None:
    """Of 60 pairs of runs that differ by chance alone, about 3 at most."""
    random = np.random.default_rng(3)
    told = 0
    for _ in range(60):
        skill = random.beta(1, 1, size=30)
        first, second = (np.asarray(random.random((2, 30)) < skill, dtype=np.float64) for _ in range(2))
        told += decide({"A": first, "B": second}).told
    assert told <= 8  # more has a chance of 0.2 % at 5 %


def test_many_contenders_have_the_table() -> None:
    found = decide(
        {name: table("1" * number + "0" * (10 - number)) for number, name in enumerate("ABCDEF", 1)}
    )
    told = sentences(found, 10, dict.fromkeys("ABCDEF", 1.0))
    assert told[0] == "The data cannot tell F, E, D, C, B and A apart."
    assert [one[:4] for one in told[1:4]] == ["F is"] * 3 and told[4] == "The other pairs are in the table."


def test_one_run_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="needs two"):
        decide({"A": table("1")})
