"""Token weights: each against its paper's formula on a ragged batch, masked sequences, how steps add up."""

import math
import random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.losses.token_weights import Weighting, token_weights

KINDS: tuple[Weighting, ...] = get_args(Weighting)
ONE_STEP: tuple[Weighting, ...] = ("dapo", "bnpo")
MOST = 16

STEPS = st.lists(st.integers(0, MOST), min_size=1, max_size=12)


def step_loss(kind: Weighting, losses: list[list[float]], batch_tokens: float) -> float:
    lengths = [len(tokens) for tokens in losses]
    weights = token_weights(kind, lengths, batch_tokens=batch_tokens, max_completion_tokens=MOST)
    return sum(weight * sum(tokens) for weight, tokens in zip(weights, losses, strict=True))


def ragged(lengths: list[int], seed: int = 0) -> list[list[float]]:
    draw = random.Random(seed)
    return [[draw.gauss(0, 1) for _ in range(length)] for length in lengths]


def test_values_by_hand() -> None:
    # S = 4, 10 tokens; the batch has 40 tokens in 2 steps.
    expected = {
        "grpo": [1 / 8, 0, 1 / 12, 1 / 20],
        "gspo": [1 / 8, 0, 1 / 12, 1 / 20],
        "bnpo": [1 / 10, 0, 1 / 10, 1 / 10],
        "dapo": [1 / 20, 0, 1 / 20, 1 / 20],
        "cispo": [1 / 20, 0, 1 / 20, 1 / 20],
        "dr_grpo": [1 / 64, 0, 1 / 64, 1 / 64],
    }
    for kind in KINDS:
        weights = token_weights(kind, [2, 0, 3, 5], batch_tokens=20, max_completion_tokens=MOST)
        assert weights == pytest.approx(expected[kind], abs=1e-15), kind


def test_each_is_the_formula_of_its_paper() -> None:
    losses = ragged([5, 1, 0, 16, 7])
    total = sum(map(sum, losses))
    # GRPO (equation 3 of DeepSeekMath): 1/G sum_i 1/|o_i| sum_t; TRL's mean over rows counts masked ones.
    by_sequence = sum(sum(tokens) / len(tokens) for tokens in losses if tokens) / 5
    # DAPO (equation 8): 1 / sum_i |o_i| sum_i sum_t. Dr. GRPO (its listing 1): masked sum over a constant
    # budget, mean over the batch.
    expected = {
        "grpo": by_sequence,
        "gspo": by_sequence,
        "bnpo": total / 29,
        "dapo": total / 29,
        "cispo": total / 29,
        "dr_grpo": sum(sum(tokens) / MOST for tokens in losses) / 5,
    }
    for kind in KINDS:
        assert step_loss(kind, losses, batch_tokens=29) == pytest.approx(expected[kind], rel=1e-12), kind


@given(steps=st.lists(STEPS, min_size=1, max_size=4))
def test_dapo_over_the_steps_of_a_batch_is_the_mean_over_its_tokens(steps: list[list[int]]) -> None:
    losses = [ragged(lengths, seed) for seed, lengths in enumerate(steps)]
    tokens = sum(map(sum, steps))
    flat = [value for step in losses for sequence in step for value in sequence]
    for kind in ("dapo", "cispo"):
        values = [step_loss(kind, step, tokens / len(steps)) for step in losses]
        expected = sum(flat) / tokens if tokens else 0.0
        assert sum(values) / len(steps) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(lengths=STEPS)
def test_dapo_is_bnpo_where_the_batch_is_one_step(lengths: list[int]) -> None:
    dapo, bnpo = (
        token_weights(kind, lengths, batch_tokens=sum(lengths), max_completion_tokens=MOST)
        for kind in ONE_STEP
    )
    assert dapo == bnpo


@given(lengths=STEPS, kind=st.sampled_from(KINDS))
def test_how_much_a_step_weighs(lengths: list[int], kind: Weighting) -> None:
    weights = token_weights(kind, lengths, batch_tokens=50, max_completion_tokens=MOST)
    mass = sum(weight * length for weight, length in zip(weights, lengths, strict=True))
    trained = sum(length > 0 for length in lengths)
    expected = {
        "grpo": trained / len(lengths),
        "gspo": trained / len(lengths),
        "bnpo": 1.0 if trained else 0.0,
        "dapo": sum(lengths) / 50,
        "cispo": sum(lengths) / 50,
        "dr_grpo": sum(lengths) / (len(lengths) * MOST),
    }
    assert mass == pytest.approx(expected[kind], rel=1e-12)
    assert all(math.isfinite(weight) for weight in weights)
    assert [weight == 0 for weight in weights] == [length == 0 for length in lengths]


@given(lengths=STEPS, kind=st.sampled_from(KINDS), data=st.data())
def test_order_changes_no_weight(lengths: list[int], kind: Weighting, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(lengths))))
    weights = token_weights(kind, lengths, batch_tokens=50, max_completion_tokens=MOST)
    permuted = token_weights(kind, [lengths[i] for i in order], batch_tokens=50, max_completion_tokens=MOST)
    assert permuted == [weights[i] for i in order]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_train_weighs_nothing(kind: Weighting) -> None:
    assert token_weights(kind, [0, 0, 0], batch_tokens=0, max_completion_tokens=MOST) == [0, 0, 0]
    assert token_weights(kind, [0, 0], batch_tokens=7, max_completion_tokens=MOST) == [0, 0]
    assert token_weights(kind, [], batch_tokens=0, max_completion_tokens=MOST) == []


def test_a_masked_sequence_counts_in_the_number_of_sequences() -> None:
    ratios: dict[Weighting, float] = {
        "grpo": 0.5,
        "gspo": 0.5,
        "dr_grpo": 0.5,
        "bnpo": 1,
        "dapo": 1,
        "cispo": 1,
    }
    for kind, ratio in ratios.items():
        alone = token_weights(kind, [4], batch_tokens=4, max_completion_tokens=MOST)
        beside = token_weights(kind, [4, 0], batch_tokens=4, max_completion_tokens=MOST)
        assert beside == [ratio * alone[0], 0]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="max_completion_tokens is 0"):
        token_weights("dr_grpo", [1], batch_tokens=1, max_completion_tokens=0)
    with pytest.raises(AssertionError):
        token_weights("grpo", [1, -1], batch_tokens=1, max_completion_tokens=MOST)
    with pytest.raises(AssertionError):
        token_weights("dapo", [1], batch_tokens=0, max_completion_tokens=MOST)
