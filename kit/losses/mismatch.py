"""Truncated importance sampling: sampler and trainer give the same weights different probabilities.

A fast sampler (its kernels, its precision, its batching) draws from a distribution that is not quite the one
that the trainer differentiates. The policy gradient is put right by the weight p_trainer / p_sampler, cut at
a cap for the sake of its variance (Yao et al. 2025, "Your efficient RL framework secretly brings you
off-policy RL training"; truncation after Ionides 2008).
"""

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from kit.losses.policy import sequence_sum

if TYPE_CHECKING:
    import torch

Level = Literal["token", "sequence"]


class Mismatch(NamedTuple):
    """What `importance_weights` returns; nothing in it has a gradient."""

    weights: "torch.Tensor"
    """[N], in 0..cap, of the type of the trainer's logprobs: factors of each token's policy loss."""
    sums: "dict[str, torch.Tensor]"
    """Sums over the compared tokens, 0-d, float64: to be added over micro-batches and ranks, and divided by
    the first.

    mismatch_tokens: how many were compared.
    mismatch_kl: log p_sampler - log p_trainer, whose mean estimates KL(sampler || trainer) of a token.
    mismatch_weight: the weights, whose mean is near 1 where nothing is wrong.
    mismatch_truncated: 1 where the cap cut the weight.
    """
    largest: "torch.Tensor"
    """0-d, float64: the largest |log p_sampler - log p_trainer| of one token in nats, 0 where none was
    compared; to be combined by maximum."""


def importance_weights(
    old_logprobs: "torch.Tensor",
    sampler_logprobs: "torch.Tensor",
    segments: "torch.Tensor",
    count: int,
    *,
    level: Level,
    cap: float = 2.0,
) -> Mismatch:
    """min(p_trainer / p_sampler, cap) of each token, or of its whole sequence.

    `token` takes each token's own ratio: little variance, but it leaves the difference in which prefixes come
    up. `sequence` takes the product over the sequence for all of its tokens: right but for the cap, and soon
    at 0 or at the cap on long completions.

    A token whose sampler logprob is NaN (tool output: nothing was drawn) has ratio 1 and is not compared; at
    `sequence` it gets the weight of its sequence like any other.

    Args:
        old_logprobs: [N], nats, by the trainer with the weights that the sampler had, under the distribution
            that was drawn from (the same temperature).
        sampler_logprobs: [N], nats, by the sampler; NaN where it drew nothing.
        segments: [N], int64, the number of each token's sequence, in 0..count-1. At `sequence` all tokens of
            a sequence must be here.
        count: number of sequences.
        level: what a ratio is taken over.
        cap: largest weight, at least 1.

    Raises:
        ValueError: a cap below 1, or not finite.
    """
    import torch

    if not 1 <= cap < math.inf:
        raise ValueError(f"cap is {cap}; it must be at least 1, or two equal models would not weigh 1")
    assert old_logprobs.shape == sampler_logprobs.shape == segments.shape, "one value a token"
    with torch.no_grad():
        compared = ~sampler_logprobs.isnan()
        log_ratio = (old_logprobs.double() - sampler_logprobs.double()).masked_fill(~compared, 0)
        whole = level == "sequence"
        # Without gradient an overflow to inf is harmless: the cap takes it.
        uncut = (sequence_sum(log_ratio, segments, count)[segments] if whole else log_ratio).exp()
        weights = uncut.clamp(max=cap)
        sums = {
            "mismatch_tokens": compared.sum().double(),
            "mismatch_kl": -log_ratio.sum(),
            "mismatch_weight": weights[compared].sum(),
            "mismatch_truncated": (compared & (uncut > cap)).sum().double(),
        }
        largest = torch.cat([log_ratio.abs(), log_ratio.new_zeros(1)]).max()
    return Mismatch(weights.to(old_logprobs.dtype), sums, largest)
