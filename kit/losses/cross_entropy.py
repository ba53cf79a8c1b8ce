"""Cross-entropy of each token: the loss of plain fine-tuning."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cross_entropy(logits: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """-log softmax(logits)[target] of each token, in nats.

    No target is special: a mask value such as -100 is an error and not a loss of 0. The caller leaves out
    the tokens that are not trained.

    Args:
        logits: [N, V], of any float type. bfloat16 and float16 are computed in float32.
        targets: [N], ids in 0..V-1.

    Returns:
        [N], float32 or float64. Keeps one [N, V] tensor in that type for the backward pass, which makes two
        more.

    Raises:
        RuntimeError: a target outside 0..V-1 (from torch; on CUDA a device-side assertion).
    """
    import torch

    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
