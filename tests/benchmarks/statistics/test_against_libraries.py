"""Every statistic of a run against scipy and statsmodels, or against all cases one by one."""

from itertools import combinations, permutations

import numpy as np
import pytest

from benchmarks.best_of_n import accuracy_at
from benchmarks.run.summary import DRAWS
from benchmarks.statistics.accuracy import wilson_interval
from benchmarks.statistics.twice import twice_run
from submission.selection.candidate import Candidate
from submission.selection.fitting import LabelledProblem
from submission.selection.rule import PLAIN
from submission.selection.statistics import (
    attempt_correlation,
    effective_attempts,
    majority_at_k,
    mcnemar,
    pass_at_k,
    selection_loss,
)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_wilson_is_statsmodels(level: float) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for problems in (1, 2, 7, 20, 50, 200, 5_000):
        for right in {0, 1, problems // 3, problems - 1, problems}:
            expected = proportion.proportion_confint(right, problems, alpha=1 - level, method="wilson")
            found = wilson_interval(right, problems, level)
            assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_is_statsmodels() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for only_first, only_second in [(0, 0), (0, 1), (1, 1), (0, 6), (3, 9), (12, 12), (40, 70), (300, 250)]:
        first = [True] * only_first + [False] * only_second + [True, False] * 4
        second = [False] * only_first + [True] * only_second + [True, False] * 4
        expected = tables.mcnemar([[4, only_first], [only_second, 4]], exact=True).pvalue
        # Of no discordant pair statsmodels makes nan or 1, by version.
        expected = 1.0 if only_first + only_second == 0 else float(expected)
        assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_pass_at_k_is_the_hypergeometric_chance() -> None:
    stats = pytest.importorskip("scipy.stats")
    for attempts in (1, 5, 16, 64, 1_000):
        for right in {0, 1, attempts // 2, attempts}:
            for k in {1, min(8, attempts), attempts}:
                none = stats.hypergeom(attempts, right, k).pmf(0)
                assert pass_at_k(attempts, right, k) == pytest.approx(1 - none, abs=1e-10)


def test_majority_at_k_counts_every_subset() -> None:
    """The vote written anew: the most votes, and of equals the one that came first."""
    random = np.random.default_rng(6)
    for _ in range(40):
        size = int(random.integers(1, 8))
        answers = [None if one == 3 else str(one) for one in random.integers(0, 4, size)]
        right = [one == "1" for one in answers]
        for k in range(1, size + 1):
            won = []
            for subset in combinations(answers, k):
                votes = [one for one in subset if one is not None]
                won.append(bool(votes) and max(votes, key=votes.count) == "1")
            assert majority_at_k(answers, right, k) == pytest.approx(np.mean(won))
            problem = LabelledProblem("p", tuple(Candidate(one) for one in answers), tuple(right))
            assert accuracy_at(problem, PLAIN, k, draws=DRAWS) == pytest.approx(np.mean(won))


def test_the_correlation_is_that_of_scipys_analysis_of_variance() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(7)
    right = [[bool(one) for one in random.random(size) < random.random()] for size in (5, 8, 8, 3, 12, 9)]
    sizes = np.array([len(one) for one in right])
    ratio = float(stats.f_oneway(*[np.array(one, dtype=float) for one in right]).statistic)
    common = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(sizes) - 1)
    rho = (ratio - 1) / (ratio + common - 1)
    assert attempt_correlation(right) == pytest.approx(rho, abs=1e-12)


def test_effective_attempts_have_the_variance_of_so_many_independent_ones() -> None:
    """Of beta(2, 2) problems rho is 1/5: the share of 8 attempts varies as that of 3.33 independent ones."""
    random = np.random.default_rng(8)
    chances = random.beta(2, 2, size=200_000)
    shares = random.binomial(8, chances) / 8
    assert 0.25 / shares.var() == pytest.approx(effective_attempts(8, 0.2), rel=0.02)


def test_selection_loss_counts_every_problem() -> None:
    right = [[True, False], [False, False], [False, True], [True, True]]
    for chosen in ([True, False, False, True], [False] * 4, [True, False, True, True]):
        lost = [any(one) and not won for one, won in zip(right, chosen, strict=True)]
        assert selection_loss(right, chosen) == sum(lost) / 4


def test_twice_run_counts_every_pair_of_runs() -> None:
    random = np.random.default_rng(9)
    for runs in (2, 3, 6):
        right = (random.random((runs, 9)) < 0.6).astype(float)
        pairs = [right[first] + right[second] for first, second in permutations(range(runs), 2)]
        found = twice_run(right)
        assert found.score == pytest.approx(np.mean([(pair / 2).sum() for pair in pairs]))
        shares = [np.mean([(pair == count).mean() for pair in pairs]) for count in (2, 1, 0)]
        assert (found.both, found.one, found.none) == pytest.approx(tuple(shares))
