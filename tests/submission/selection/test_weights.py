import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.selection.candidate import Candidate
from submission.selection.voting import standings
from submission.selection.weights import (
    confidence_weights,
    entropy_weights,
    length_weights,
    logprob_weights,
    prm_weights,
)

anything = st.floats(allow_nan=True, allow_infinity=True)
temperatures = st.floats(1e-6, 1e6)
candidates = st.lists(
    st.builds(
        Candidate,
        st.integers(0, 3),
        tokens=st.integers(-3, 10**6) | st.integers(10**305, 10**320),
        logprob=anything,
        entropy=anything,
    ),
    min_size=1,
    max_size=8,
)
MADE_OF = (logprob_weights, entropy_weights, length_weights)


def test_confidence_by_hand() -> None:
    values = [-1.0, -1.0 - math.log(2), math.nan, -math.inf]
    assert confidence_weights(values, 1.0) == pytest.approx([1, 0.5, 0.5, 0.5])
    assert confidence_weights(values, 0.5) == pytest.approx([1, 0.25, 0.25, 0.25])
    assert confidence_weights([math.nan, math.inf], 1.0) == [1, 1]


def test_token_weights_by_hand() -> None:
    two = [Candidate(1, 10, logprob=-10.0, entropy=0.5), Candidate(2, 30, logprob=-60.0, entropy=2.5)]
    assert logprob_weights(two) == pytest.approx([1, math.exp(-1)])
    assert logprob_weights(two, 2.0) == pytest.approx([1, math.exp(-0.5)])
    assert entropy_weights(two) == pytest.approx([1, math.exp(-2)])
    # Half and three halves of the mean length.
    assert length_weights(two) == pytest.approx([1, math.exp(-1)])


def test_an_endless_repetition_does_not_take_the_vote() -> None:
    # 1 / entropy would give the first candidate 10^9 votes.
    three = [Candidate(1, entropy=1e-9), Candidate(2, entropy=0.5), Candidate(2, entropy=0.5)]
    assert standings([1, 2, 2], entropy_weights(three))[0].answer == 2


def test_prm_weights_by_hand() -> None:
    assert prm_weights([0.9, 0.45]) == pytest.approx([1, 0.5])
    assert prm_weights([0.9, 0.45], temperature=0.5) == pytest.approx([1, 0.25])
    assert prm_weights([0.9, 0.45], blend=0.5) == pytest.approx([1, 0.75])
    assert prm_weights([0.9, math.nan, 0.45]) == pytest.approx([1, 0.5, 0.5])
    assert prm_weights([0.0, 0.0, math.nan]) == [1, 1, 1], "none is better than another"
    assert prm_weights([3.0, -1.0]) == [1, 0], "cut to 0 and 1"


def test_a_small_blend_breaks_ties_alone() -> None:
    def winner(answers: list[int], scores: list[float]) -> object:
        return standings(answers, prm_weights(scores, blend=0.05))[0].answer

    assert winner([1, 2], [0.2, 0.9]) == 2
    assert winner([1, 1, 2], [0.0, 0.0, 1.0]) == 1


@given(candidates, temperatures, st.sampled_from(MADE_OF))
def test_token_weights_are_finite_whatever_comes_in(
    found: list[Candidate], temperature: float, weigh: Callable[[Sequence[Candidate], float], list[float]]
) -> None:
    weights = weigh(found, temperature)
    assert len(weights) == len(found)
    assert all(0 <= weight <= 1 for weight in weights)
    assert max(weights) == 1


@given(st.lists(anything, min_size=1, max_size=8), temperatures, st.floats(0, 1))
def test_prm_weights_are_finite_whatever_comes_in(
    scores: list[float], temperature: float, blend: float
) -> None:
    weights = prm_weights(scores, temperature, blend)
    assert all(0 <= weight <= 1 + 1e-15 for weight in weights)
    assert max(weights) == pytest.approx(1)


@given(st.lists(anything, min_size=1, max_size=8), temperatures)
def test_the_unknown_weighs_no_more_than_the_known(values: list[float], temperature: float) -> None:
    for weights in (confidence_weights(values, temperature), prm_weights(values, temperature)):
        known = [weight for weight, value in zip(weights, values, strict=True) if math.isfinite(value)]
        unknown = [weight for weight, value in zip(weights, values, strict=True) if not math.isfinite(value)]
        assert max(unknown, default=0) <= min(known, default=1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.integers(1, 4), temperatures)
def test_nan_never_wins(scores: list[float], unknown: int, temperature: float) -> None:
    # As many known candidates as unknown ones, or more: the unknown answer stays behind.
    unknown = min(unknown, len(scores))
    answers = [1] * len(scores) + [2] * unknown
    weights = prm_weights([*scores, *([math.nan] * unknown)], temperature)
    assert standings(answers, weights)[0].answer == 1


@given(st.lists(st.floats(1e-3, 1), min_size=1, max_size=6), st.floats(1e-3, 1))
def test_prm_weights_do_not_depend_on_the_scale(scores: list[float], factor: float) -> None:
    assert prm_weights([score * factor for score in scores]) == pytest.approx(prm_weights(scores))


@given(st.lists(anything, min_size=1, max_size=6), temperatures)
def test_blend_zero_is_the_plain_vote(scores: list[float], temperature: float) -> None:
    assert prm_weights(scores, temperature, 0.0) == [1.0] * len(scores)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, 1e-9])
def test_temperatures_out_of_range(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature is"):
        prm_weights([0.5], temperature)
    with pytest.raises(ValueError, match="temperature is"):
        confidence_weights([0.5], temperature)


@pytest.mark.parametrize("blend", [-0.1, 1.1, math.nan])
def test_blends_out_of_range(blend: float) -> None:
    with pytest.raises(ValueError, match="blend is"):
        prm_weights([0.5], blend=blend)
