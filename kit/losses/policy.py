"""Policy-gradient terms of each token: the clipped surrogate, GSPO's sequence ratio, and CISPO.

With r = exp(logprob - old logprob), advantage A, and sg() for what gets no gradient:

    clipped_surrogate    -min(r A, clip(r) A)          Schulman et al. 2017 (PPO, arXiv 1707.06347)
    sequence_surrogate   the same, with r = s sg(1 / p) p and s = exp(mean of log r over the sequence)
                                                       Zheng et al. 2025 (GSPO-token, arXiv 2507.18071)
    cispo                -sg(clip(r)) A logprob        MiniMax 2025 (MiniMax-M1, arXiv 2506.13585)

where clip(r) cuts r to [1 - clip_low, 1 + clip_high]. GRPO, BNPO, Dr. GRPO and DAPO share the first and
differ in the weights of the tokens (`kit.losses.token_weights`). A higher upper bound, 0.28 against 0.2, is
DAPO's (Yu et al. 2025, arXiv 2503.14476).

Everything is per token, without a reduction. In all three a token whose old logprob is its present one has a
ratio of exactly 1 and is not clipped.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PolicyTerms:
    """What a token gives.

    Args:
        loss: [N], to be weighted and summed.
        ratio: [N], r (or s) before clipping, without gradient.
        clipped: [N], bool: where the clip took the gradient away; in CISPO, where it set its size.
    """

    loss: "torch.Tensor"
    ratio: "torch.Tensor"
    clipped: "torch.Tensor"


def clipped_surrogate(
    logprobs: "torch.Tensor",
    old_logprobs: "torch.Tensor",
    advantages: "torch.Tensor",
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> PolicyTerms:
    """-min(r A, clip(r) A) of each token.

    The clip acts on one side for each sign: A > 0 stops to pull r above 1 + clip_high, A < 0 stops to push it
    below 1 - clip_low. The gradient by the logprob is -r A elsewhere, and 0 there.

    Args:
        logprobs: [N], nats, float32 or float64, with gradient.
        old_logprobs: [N], by the policy at the start of the batch; gets no gradient.
        advantages: [N]; gets no gradient.
        clip_low, clip_high: not negative.

    Raises:
        ValueError: a negative clip.
    """
    return _surrogate(logprobs - old_logprobs.detach(), advantages, clip_low, clip_high)


def sequence_surrogate(
    logprobs: "torch.Tensor",
    sequence_log_ratio: "torch.Tensor",
    advantages: "torch.Tensor",
    *,
    clip_low: float,
    clip_high: float,
) -> PolicyTerms:
    """-min(s A, clip(s) A) of each token, with its sequence's ratio s: all tokens are clipped, or none.

    Each token adds s A to the gradient by its own logprob. With one advantage for a sequence, and weights
    1 / length, that is the gradient of GSPO's s A, since d s = s * mean of d logprob.

    s strays less from 1 than a token's r: the paper clips at 3e-4 and 4e-4.

    Args:
        logprobs: [N], nats, with gradient.
        sequence_log_ratio: [N], log s: for each token the mean of logprob - old logprob over all trained
            tokens of its sequence (`sequence_mean`); gets no gradient.
        advantages: [N]; gets no gradient.
        clip_low, clip_high: not negative.

    Raises:
        ValueError: a negative clip.
    """
    # The second part is exactly 0: it is there for its gradient.
    log_ratio = sequence_log_ratio.detach() + (logprobs - logprobs.detach())
    return _surrogate(log_ratio, advantages, clip_low, clip_high)


def cispo(
    logprobs: "torch.Tensor",
    old_logprobs: "torch.Tensor",
    advantages: "torch.Tensor",
    *,
    clip_low: float,
    clip_high: float,
) -> PolicyTerms:
    """-sg(clip(r)) A logprob of each token: clipping limits a token's weight, and never drops its gradient.

    The gradient by the logprob is -clip(r) A. The value is no objective: it is not comparable with that of
    the surrogates, nor from step to step.

    Args:
        logprobs: [N], nats, float32 or float64, with gradient.
        old_logprobs: [N], by the policy at the start of the batch; gets no gradient.
        advantages: [N]; gets no gradient.
        clip_low, clip_high: not negative; clip_low of 1 sets no lower bound, as in the paper. The upper bound
            is 1 + clip_high, where TRL's `epsilon_high` for CISPO is the bound itself.

    Raises:
        ValueError: a negative clip.
    """
    _check(clip_low, clip_high)
    advantages = advantages.detach()
    assert logprobs.shape == old_logprobs.shape == advantages.shape, "one value a token"
    ratio = (logprobs.detach() - old_logprobs.detach()).exp()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return PolicyTerms(-weight * advantages * logprobs, ratio, (weight != ratio) & (advantages != 0))


def sequence_sum(values: "torch.Tensor", segments: "torch.Tensor", count: int) -> "torch.Tensor":
    """The sum over each sequence, [count], in float64.

    On the CPU the same input gives the same bits. CUDA adds in any order (unless torch is told to be
    deterministic), which in float64 is far below what float32 resolves.

    Args:
        values: [N].
        segments: [N], int64: the number of each token's sequence, in 0..count-1, in any order.
        count: number of sequences; one without tokens sums to 0.
    """
    import torch

    sums = torch.zeros(count, dtype=torch.float64, device=values.device)
    return sums.index_add(0, segments, values.double())


def sequence_mean(values: "torch.Tensor", segments: "torch.Tensor", count: int) -> "torch.Tensor":
    """For each token the mean over its sequence, all of whose tokens are here: [N], of the type of `values`.

    Arguments and determinism are those of `sequence_sum`.
    """
    import torch

    lengths = sequence_sum(torch.ones_like(values), segments, count)
    sums = sequence_sum(values, segments, count)
    return (sums[segments] / lengths[segments]).to(values.dtype)


def _surrogate(
    log_ratio: "torch.Tensor", advantages: "torch.Tensor", clip_low: float, clip_high: float
) -> PolicyTerms:
    import torch

    _check(clip_low, clip_high)
    advantages = advantages.detach()
    assert log_ratio.shape == advantages.shape, "one value a token"
    ratio = log_ratio.detach().exp()
    clipped = ((advantages > 0) & (ratio > 1 + clip_high)) | ((advantages < 0) & (ratio < 1 - clip_low))
    # Where no gradient is due none may pass through exp: a ratio that overflows would make it 0 * inf = NaN.
    still = clipped | (advantages == 0)
    moving = log_ratio.masked_fill(still, 0).exp()
    value = torch.where(still, ratio.clamp(1 - clip_low, 1 + clip_high), moving)
    return PolicyTerms(-value * advantages, ratio, clipped)


def _check(clip_low: float, clip_high: float) -> None:
    if not (clip_low >= 0 and clip_high >= 0):
        raise ValueError(f"clip_low and clip_high are {clip_low} and {clip_high}; neither may be negative")
