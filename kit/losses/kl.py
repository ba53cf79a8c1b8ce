"""Distance of the policy from a reference at each drawn token: the estimators k1, k2 and k3.

With d = log p(token) - log q(token) for the policy p and the reference q (Schulman 2020, "Approximating KL
divergence"):

         value             expected value            expected gradient as a loss
    k1   d                 KL(p || q)                0: of no use as a loss
    k2   d^2 / 2           KL(p || q) + O(d^3)       that of KL(p || q)
    k3   e^-d - (-d) - 1   KL(p || q)                that of KL(q || p)

The expectations are over a token that p itself draws, for p and q that give no token probability 0; the
gradients are by p's parameters and leave out that p also decides which prefixes come up. Both follow from
E[grad log p] = 0, and the tests enumerate them.

k1 belongs into the reward: sg(d) as a cost in the policy gradient has the expected gradient
E[d grad log p] = grad KL(p || q), which is k2's as a loss (Liu et al. 2025, "Rethinking KL Regularization in
RLHF", arXiv 2510.01555). GRPO's own choice is k3 (Shao et al. 2024, arXiv 2402.03300). It is never negative,
and its gradient 1 - e^-d is bounded above by 1, but grows without bound where p has lost a token of q.
"""

from typing import TYPE_CHECKING, Literal, assert_never

if TYPE_CHECKING:
    import torch

KLKind = Literal["k1", "k2", "k3"]


def kl_penalty(logprobs: "torch.Tensor", ref_logprobs: "torch.Tensor", kind: KLKind) -> "torch.Tensor":
    """The estimate at each token in nats, [N]: exactly 0 where the two are equal.

    The gradient by the logprob is 1 for k1, d for k2 and 1 - e^-d for k3: for the last two exactly 0 there.

    Args:
        logprobs: [N], nats, of the drawn tokens under the policy; float32 or float64, with gradient.
        ref_logprobs: [N], under the reference; gets no gradient.
        kind: which estimator.
    """
    import torch

    assert logprobs.shape == ref_logprobs.shape, "one value a token"
    difference = logprobs - ref_logprobs.detach()
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference.square() / 2
    if kind == "k3":
        # exp(-d) - 1 loses all digits of a small d: k3 is of the order of d^2.
        return torch.expm1(-difference) + difference
    assert_never(kind)
