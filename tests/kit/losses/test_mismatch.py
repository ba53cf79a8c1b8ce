"""Importance weights: values by hand, what they correct by enumeration, missing and extreme logprobs."""

import itertools
import math
from typing import get_args

import pytest
import torch

from kit.losses.mismatch import Level, importance_weights

LEVELS: tuple[Level, ...] = get_args(Level)
NAN = math.nan


def logs(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def figures(sums: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in sums.items()}


# --- values ------------------------------------------------------------------------------------------

# Ratios 3/2, 3 | 1/2, 8/5 | 4/5 in two sequences that lie mixed: 0 has 3/2, 1/2 and 4/5, product 3/5; 1 has 3
# and 8/5, product 24/5.
OLD = logs(0.3, 0.6, 0.1, 0.8, 0.4)
SAMPLER = logs(0.2, 0.2, 0.2, 0.5, 0.5)
SEGMENTS = torch.tensor([0, 1, 0, 1, 0])


def test_token_weights_by_hand() -> None:
    weights, sums, largest = importance_weights(OLD, SAMPLER, SEGMENTS, 2, level="token")
    assert weights.tolist() == pytest.approx([1.5, 2, 0.5, 1.6, 0.8], abs=1e-12)
    # The product of all ratios is 3/2 * 3 * 1/2 * 8/5 * 4/5 = 72/25.
    assert figures(sums) == pytest.approx(
        {
            "mismatch_tokens": 5,
            "mismatch_kl": -math.log(72 / 25),
            "mismatch_weight": 1.5 + 2 + 0.5 + 1.6 + 0.8,
            "mismatch_truncated": 1,
        }
    )
    assert float(largest) == pytest.approx(math.log(3))


def test_sequence_weights_by_hand() -> None:
    weights, sums, largest = importance_weights(OLD, SAMPLER, SEGMENTS, 2, level="sequence", cap=4.0)
    assert weights.tolist() == pytest.approx([0.6, 4, 0.6, 4, 0.6], abs=1e-12)
    assert figures(sums) == pytest.approx(
        {
            "mismatch_tokens": 5,
            "mismatch_kl": -math.log(72 / 25),
            "mismatch_weight": 3 * 0.6 + 2 * 4,
            "mismatch_truncated": 2,
        }
    )
    assert float(largest) == pytest.approx(math.log(3))


# --- what they are for -------------------------------------------------------------------------------

# Two steps over two tokens: P(first = 0), and P(second = 0) after each first.
TRAINER = (0.6, (0.7, 0.2))
DRAWN_FROM = (0.5, (0.4, 0.5))


def two_tokens(model: tuple[float, tuple[float, float]], sequences: list[tuple[int, int]]) -> torch.Tensor:
    """Probabilities [4, 2] of both tokens of each sequence."""
    start, after = model
    rows = []
    for first, second in sequences:
        chance = after[first]
        rows.append([(start, 1 - start)[first], (chance, 1 - chance)[second]])
    return torch.tensor(rows, dtype=torch.float64)


def test_expectations_under_the_sampler_become_the_trainers() -> None:
    sequences = list(itertools.product((0, 1), (0, 1)))
    trainer, sampler = two_tokens(TRAINER, sequences), two_tokens(DRAWN_FROM, sequences)
    rewards = torch.tensor([1.0, -2.0, 0.5, 4.0], dtype=torch.float64)
    segments = torch.arange(4).repeat_interleave(2)

    def corrected(level: Level) -> torch.Tensor:
        flat = trainer.log().flatten(), sampler.log().flatten()
        weights = importance_weights(*flat, segments, 4, level=level, cap=1e6).weights.view(4, 2)
        # of each token: E_sampler[weight * reward], over the sequences
        return (sampler.prod(1, keepdim=True) * weights * rewards[:, None]).sum(0)

    truth = (trainer.prod(1) * rewards).sum()
    assert torch.allclose(corrected("sequence"), truth.expand(2), rtol=1e-12)
    # The token's own ratio does not know of the other token.
    assert (corrected("token") - truth).abs().min() > 0.05


def test_kl_is_that_of_the_sampler_from_the_trainer() -> None:
    sampler, trainer = torch.tensor([0.5, 0.2, 0.3]).double(), torch.tensor([0.3, 0.3, 0.4]).double()
    kl = (sampler * (sampler / trainer).log()).sum()
    # Tokens as often as the sampler draws them: 5, 2 and 3 of ten.
    drawn = torch.tensor([0] * 5 + [1] * 2 + [2] * 3)
    sums = importance_weights(
        trainer.log()[drawn], sampler.log()[drawn], torch.zeros(10, dtype=torch.int64), 1, level="token"
    ).sums
    assert float(sums["mismatch_kl"] / sums["mismatch_tokens"]) == pytest.approx(float(kl))
    # and the weights have the mean sum_i s_i t_i / s_i = 1 where no cap bites
    assert float(sums["mismatch_weight"] / sums["mismatch_tokens"]) == pytest.approx(1)


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_models_weigh_exactly_one(level: Level, dtype: torch.dtype) -> None:
    old = OLD.to(dtype)
    weights, sums, largest = importance_weights(old, old.clone(), SEGMENTS, 2, level=level, cap=1.0)
    assert weights.tolist() == [1] * 5
    assert weights.dtype == dtype
    assert list(figures(sums).values()) == [5, 0, 5, 0]
    assert float(largest) == 0


def test_tokens_that_nobody_drew_are_left_out() -> None:
    sampler = SAMPLER.clone()
    sampler[[0, 1]] = NAN
    # Left: 0 has 1/2 and 4/5, product 2/5; 1 has 8/5.
    weights, sums, largest = importance_weights(OLD, sampler, SEGMENTS, 2, level="token")
    assert weights.tolist() == pytest.approx([1, 1, 0.5, 1.6, 0.8], abs=1e-12)
    assert figures(sums) == pytest.approx(
        {
            "mismatch_tokens": 3,
            "mismatch_kl": -math.log(16 / 25),
            "mismatch_weight": 2.9,
            "mismatch_truncated": 0,
        }
    )
    assert float(largest) == pytest.approx(math.log(2))
    weights, sums, _ = importance_weights(OLD, sampler, SEGMENTS, 2, level="sequence")
    assert weights.tolist() == pytest.approx([0.4, 1.6, 0.4, 1.6, 0.4], abs=1e-12)
    assert float(sums["mismatch_weight"]) == pytest.approx(0.4 + 1.6 + 0.4)


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_drawn_or_no_tokens(level: Level) -> None:
    lost = torch.full_like(SAMPLER, NAN)
    weights, sums, largest = importance_weights(OLD, lost, SEGMENTS, 2, level=level)
    assert weights.tolist() == [1] * 5
    assert list(figures(sums).values()) == [0, 0, 0, 0]
    assert float(largest) == 0
    weights, sums, largest = importance_weights(OLD[:0], lost[:0], SEGMENTS[:0], 2, level=level)
    assert weights.shape == (0,)
    assert list(figures(sums).values()) == [0, 0, 0, 0]
    assert float(largest) == 0


@pytest.mark.parametrize("level", LEVELS)
def test_extreme_ratios_neither_overflow_nor_pass_the_cap(level: Level) -> None:
    old = torch.tensor([-1.0, -5000.0])
    sampler = torch.tensor([-5000.0, -1.0])
    weights, sums, largest = importance_weights(old, sampler, torch.tensor([0, 1]), 2, level=level)
    assert weights.tolist() == [2, 0]
    assert list(figures(sums).values()) == [2, 0, 2, 1]
    assert float(largest) == 4999


def test_a_long_sequence_is_summed_before_the_exponential() -> None:
    # 3,000 ratios of e and as many of 1/e: a product from the left would pass e^3000.
    old = torch.cat([torch.full((3000,), -1.0), torch.full((3000,), -2.0)])
    sampler = torch.full((6000,), -1.5) - torch.cat([torch.full((3000,), 0.5), torch.full((3000,), -0.5)])
    weights = importance_weights(
        old, sampler, torch.zeros(6000, dtype=torch.int64), 1, level="sequence"
    ).weights
    assert weights.tolist() == [1] * 6000


@pytest.mark.parametrize("level", LEVELS)
def test_a_trainers_nan_is_not_hidden(level: Level) -> None:
    old = OLD.clone()
    old[2] = NAN
    weights, sums, largest = importance_weights(old, SAMPLER, SEGMENTS, 2, level=level)
    assert math.isnan(weights[2])
    assert math.isnan(sums["mismatch_kl"])
    assert math.isnan(largest)


# --- invariances -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_order_does_not_matter_and_sums_add_up_over_micro_batches(level: Level) -> None:
    generator = torch.Generator().manual_seed(0)
    old, sampler = (-3 * torch.rand(40, dtype=torch.float64, generator=generator) for _ in "os")
    sampler[::7] = NAN
    segments = torch.arange(40) % 6
    whole = importance_weights(old, sampler, segments, 6, level=level)
    order = torch.randperm(40, generator=generator)
    permuted = importance_weights(old[order], sampler[order], segments[order], 6, level=level)
    assert torch.allclose(permuted.weights, whole.weights[order], rtol=1e-12)
    parts = [
        importance_weights(old[here], sampler[here], segments[here], 6, level=level)
        for here in (segments < 2, segments >= 2)
    ]
    for name, value in whole.sums.items():
        assert float(sum(part.sums[name] for part in parts)) == pytest.approx(float(value), rel=1e-12)
    assert max(float(part.largest) for part in parts) == float(whole.largest)


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_has_a_gradient(level: Level) -> None:
    result = importance_weights(OLD.clone().requires_grad_(), SAMPLER, SEGMENTS, 2, level=level)
    assert not any(tensor.requires_grad for tensor in (result.weights, result.largest, *result.sums.values()))


@pytest.mark.parametrize("cap", [0.99, 0.0, -1.0, NAN, math.inf])
def test_a_useless_cap_is_refused(cap: float) -> None:
    with pytest.raises(ValueError, match="cap is"):
        importance_weights(OLD, SAMPLER, SEGMENTS, 2, level="token", cap=cap)
