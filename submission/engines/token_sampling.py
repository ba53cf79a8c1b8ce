"""Drawing the next token of several samples at once, each from its own random stream."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from submission.engines.base import Sampling

if TYPE_CHECKING:
    import torch


def next_tokens(
    logits: "torch.Tensor", samplings: Sequence[Sampling], generators: Sequence["torch.Generator"]
) -> tuple[list[int], list[float]]:
    """Draw one token a row.

    Args:
        logits: [B, V], raw.
        samplings: B of them. Temperature 0 is greedy; `top_p` (nucleus, Holtzman et al. 2020) keeps the
            smallest set of tokens whose probability reaches it, `min_p` (Nguyen et al. 2024) those with
            at least that share of the best token's probability, both after the temperature.
        generators: B of them, so that a sample does not depend on what else is in the batch.

    Returns:
        B token ids and their log-probabilities under the model at temperature 1 (nats).
    """
    import torch

    logprobs = torch.log_softmax(logits.float(), dim=-1)
    tokens = []
    for row, sampling, generator in zip(logprobs, samplings, generators, strict=True):
        if sampling.temperature == 0:
            tokens.append(int(row.argmax()))
            continue
        probabilities = torch.softmax(row / sampling.temperature, dim=-1)
        kept = _restrict(probabilities, sampling)
        tokens.append(int(torch.multinomial(kept, 1, generator=generator)))
    chosen = torch.tensor(tokens, device=logprobs.device).unsqueeze(1)
    return tokens, [float(value) for value in logprobs.gather(1, chosen).squeeze(1)]


def _restrict(probabilities: "torch.Tensor", sampling: Sampling) -> "torch.Tensor":
    import torch

    if sampling.min_p > 0:
        probabilities = torch.where(
            probabilities >= sampling.min_p * probabilities.max(),
            probabilities,
            torch.zeros_like(probabilities),
        )
    if sampling.top_p < 1:
        ordered, order = torch.sort(probabilities, descending=True)
        before = torch.cumsum(ordered, dim=-1) - ordered
        total = ordered.sum()
        ordered = torch.where(before < sampling.top_p * total, ordered, torch.zeros_like(ordered))
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return probabilities
