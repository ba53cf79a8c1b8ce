"""The losses again, one sequence at a time, straight from their papers, to compare with."""

from collections.abc import Sequence
from typing import Any

from kit.grpo.recipe import PolicySection
from kit.grpo.rows import PolicyRow


def logprobs_of(model: Any, row: PolicyRow, temperature: float) -> Any:
    """log softmax(z / T) of the trained tokens of one row, by a forward pass of its own."""
    import torch

    ids = torch.from_numpy(row.ids.astype("int64"))
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    every = torch.log_softmax(logits / temperature, -1).gather(1, ids[1:, None])[:, 0]
    return every[torch.from_numpy(row.mask[1:] == 1)]


def sequence_loss(section: PolicySection, row: PolicyRow, now: Any) -> Any:
    """Sum of the token losses of one sequence, without its weight.

    PPO's clipped objective (arXiv 1707.06347, eq. 7) for grpo, bnpo, dr_grpo and dapo; GSPO (arXiv
    2507.18071, the form of its tokens); CISPO (arXiv 2506.13585, eq. 4 and 5); the KL estimator of GRPO
    (arXiv 2402.03300, eq. 4); truncated importance sampling, which multiplies the policy's part.
    """
    import torch

    old = torch.from_numpy(row.old) if len(row.old) else now.detach()
    low, high, advantage = 1 - section.clip_low, 1 + section.clip_high, row.advantage
    if section.kind == "cispo":
        ratio = (now - old).exp().detach()
        loss = -torch.clamp(ratio, low, high) * advantage * now
    else:
        ratio = (now - old).exp()
        if section.kind == "gspo":
            mean = (now - old).mean().exp().detach()
            ratio = mean * now.exp() / now.exp().detach()
        loss = -torch.minimum(ratio * advantage, torch.clamp(ratio, low, high) * advantage)
    if section.mismatch != "none":
        difference = old.detach() - torch.from_numpy(row.sampled)
        if section.mismatch == "sequence":
            difference = difference.sum()
        loss = loss * torch.clamp(difference.exp(), max=section.mismatch_cap)
    if section.kl_coef:
        gap = torch.from_numpy(row.reference) - now
        loss = loss + section.kl_coef * (gap.exp() - gap - 1)
    return loss.sum()


def gradients_of(
    model: Any, section: PolicySection, rows: Sequence[PolicyRow], temperature: float
) -> dict[str, Any]:
    """Gradients of the weighted sum over all rows, by name."""
    model.zero_grad()
    total = sum(
        row.weight * sequence_loss(section, row, logprobs_of(model, row, temperature)) for row in rows
    )
    total.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters()}
