"""Log-probabilities and entropies of a policy's tokens, under the temperature that they were drawn at."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def token_logprobs(
    logits: "torch.Tensor", targets: "torch.Tensor", temperature: float, vocabulary: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """log softmax(z / T) of the targets, and the entropy of softmax(z / T), both [N] in nats.

    A policy that is sampled at T is softmax(z / T), so its ratio is taken there: at T = 1 the ratio would be
    that of another policy. Top-p and min-p are left out: a sampler that draws from the likeliest tokens of
    joint probability m gives each of them 1/m times the probability here, with m between top_p and 1, so the
    two log-probabilities differ by at most -log(top_p).

    Args:
        logits: [N, V], of any float type; computed in at least float32.
        targets: [N], below `vocabulary`.
        temperature: above 0.
        vocabulary: number of real tokens: the head's rows beyond it are never drawn.

    Returns:
        log-probabilities with gradient, entropies without.
    """
    import torch

    wide = torch.promote_types(logits.dtype, torch.float32)
    scaled = logits[:, :vocabulary].to(wide)
    if temperature != 1:
        scaled = scaled / temperature
    normaliser = scaled.logsumexp(-1)
    logprobs = scaled.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normaliser
    with torch.no_grad():
        mean = (torch.softmax(scaled, -1) * scaled).nan_to_num_(0).sum(-1)
        entropies = normaliser.detach() - mean
    return logprobs, entropies
