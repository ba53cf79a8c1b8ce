"""Loss of step labels: is this step of a solution right?

With log-odds x and a label y between 0 and 1 (1 right, 0 wrong, between them the share of roll-outs that end
well), binary cross-entropy with weights of the two classes:

    loss(x, y) = w_right * y * softplus(-x) + w_wrong * (1 - y) * softplus(x)

A head of two labels gives x = z_1 - z_0: softmax(z)_1 = sigmoid(x), so this is its cross-entropy, too.
Hard labels are Lightman et al. 2023 (arXiv 2305.20050); soft and hard ones from roll-outs Wang et al. 2024
(Math-Shepherd, arXiv 2312.08935).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class ClassWeights(NamedTuple):
    """Factors of the loss of right and of wrong steps."""

    right: float = 1.0
    wrong: float = 1.0


def step_loss(
    log_odds: "torch.Tensor", labels: "torch.Tensor", weights: ClassWeights | None = None
) -> "torch.Tensor":
    """Binary cross-entropy of each step, in nats.

    Args:
        log_odds: [S], of any float type; computed in at least float32.
        labels: [S], in 0..1; never NaN: the caller leaves steps without a label out.

    Returns:
        [S], float32 or float64.
    """
    import torch
    from torch.nn.functional import softplus

    right, wrong = weights or ClassWeights()
    x = log_odds.to(torch.promote_types(log_odds.dtype, torch.float32))
    y = labels.to(x.dtype)
    return right * y * softplus(-x) + wrong * (1 - y) * softplus(x)


def log_odds_of(logits: "torch.Tensor") -> "torch.Tensor":
    """[S] log-odds of the last label from [S, 1] or [S, 2] logits, in at least float32."""
    import torch

    assert logits.shape[-1] in (1, 2), "a step is right or wrong"
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide[:, 0] if wide.shape[-1] == 1 else wide[:, 1] - wide[:, 0]


def balanced(labels: Iterable[float]) -> ClassWeights:
    """Weights under which right and wrong steps count the same in all, and a step 1 in the mean.

    n / (2 n_right) and n / (2 n_wrong), where n_right is the sum of the labels. Weights of 1 where one of the
    two never occurs. What such a loss learns is the odds at equal shares of both: calibrate before the
    scores are read as probabilities.
    """
    values = list(labels)
    right = sum(values)
    wrong = len(values) - right
    if min(right, wrong) < 1e-9:
        return ClassWeights()
    return ClassWeights(len(values) / (2 * right), len(values) / (2 * wrong))
