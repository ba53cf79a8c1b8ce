"""From what a model says at the steps' ends to scores, without a model."""

import math

import pytest

from submission.prm.heads import PrmConfig
from submission.prm.layout import lay_out
from submission.prm.scorer import by_candidate, log_odds


def test_log_odds() -> None:
    assert log_odds([1.5], 1) == 1.5
    assert log_odds([0.0, 2.0], 1) == 2.0
    assert log_odds([0.0, 2.0], 0) == -2.0
    # p = 1/2 against two others of 1/4 each.
    assert log_odds([math.log(1), math.log(2), math.log(1)], 1) == pytest.approx(0.0)
    assert log_odds([-1e4, 1e4], 1) == 2e4
    for broken in ([math.nan, 0.0], [0.0, math.inf], [-math.inf], [math.nan]):
        assert math.isnan(log_odds(broken, 0))


def test_windows_of_a_candidate_are_put_together_again() -> None:
    steps = [[number] for number in range(20, 27)]
    layouts = [lay_out([1, 2], steps, (9,), 10), [], lay_out([1, 2], steps[:1], (9,), 10)]
    assert [len(found) for found in layouts] == [3, 0, 1]
    odds = [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0], [math.nan], [0.0]]
    scores = by_candidate(layouts, odds, PrmConfig())
    assert [len(row) for row in scores] == [7, 0, 1]
    assert scores[0][:2] == [0.5, pytest.approx(1 / (1 + math.exp(-1)))]
    assert math.isnan(scores[0][6]) and scores[2] == [0.5]


def test_a_prefix_sums_over_windows_too() -> None:
    steps = [[number] for number in range(20, 27)]
    layouts = [lay_out([1, 2], steps, (9,), 10)]
    form = PrmConfig(head="logprob", span="prefix", scale=0.1)
    odds = [[-1.0, -2.0, -3.0, -4.0], [-5.0, -6.0], [-7.0]]
    (row,) = by_candidate(layouts, odds, form)
    sums = [-1, -3, -6, -10, -15, -21, -28]
    assert row == pytest.approx([1 / (1 + math.exp(-0.1 * total)) for total in sums])
