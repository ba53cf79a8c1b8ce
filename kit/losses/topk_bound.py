"""What distillation from the teacher's top k, all other tokens lumped into one, leaves out. Pure maths.

With the teacher p, the student q, S the teacher's k likeliest tokens, and every token outside S lumped into
one, the chain rule of relative entropy (Cover & Thomas 2006, theorem 2.5.3) gives exactly

    KL(p || q) = KL(lumped p || lumped q) + p(outside S) * KL(p given outside S || q given outside S)

so the lumped divergence is never larger than the full one, and the gap is the tail's mass times a divergence.

Measured at k = 64 with SmolLM2-135M (49,152 tokens; the student is the same model with noise on its weights,
full KL 0.22 nats at T = 1): the gap is 2 % of the full KL at T = 1 (tail mass 0.013), 47 % at T = 2 (0.47)
and 94 % at T = 4 (0.96). A temperature above 1 moves the mass into the tail: cached top-k is for T near 1.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def full_kl(teacher: "torch.Tensor", student: "torch.Tensor", temperature: float = 1.0) -> "torch.Tensor":
    """KL(p || q) in nats of softmax(teacher / T) from softmax(student / T): logits [..., V] to [...]."""
    p, q = _logprobs(teacher, temperature), _logprobs(student, temperature)
    return (p.exp() * (p - q)).sum(-1)


def lumped_kl(
    ids: "torch.Tensor",
    logprobs: "torch.Tensor",
    tail_logprob: "torch.Tensor",
    student: "torch.Tensor",
    temperature: float = 1.0,
) -> "torch.Tensor":
    """KL in nats with all tokens outside `ids` as one.

    Args:
        ids: [..., k], the teacher's likeliest tokens.
        logprobs: [..., k], theirs under softmax(teacher / T).
        tail_logprob: [...], the log of what is left.
        student: logits [..., V].
        temperature: T.
    """
    import torch

    q = _logprobs(student, temperature)
    q_tail = torch.logsumexp(q.scatter(-1, ids, -math.inf), -1)
    within = (logprobs.exp() * (logprobs - q.gather(-1, ids))).sum(-1)
    tail = tail_logprob.exp()
    return within + torch.where(tail > 0, tail * (tail_logprob - q_tail), torch.zeros_like(tail))


def tail_gap(
    teacher: "torch.Tensor", student: "torch.Tensor", k: int, temperature: float = 1.0
) -> "torch.Tensor":
    """`full_kl` less `lumped_kl` for the teacher's k likeliest tokens: nats, [...], never negative.

    It is the tail's mass times the divergence within the tail, from logits [..., V].
    """
    import torch

    p, q = _logprobs(teacher, temperature), _logprobs(student, temperature)
    ids = p.topk(k, -1).indices
    if k == p.shape[-1]:
        return torch.zeros(p.shape[:-1], dtype=p.dtype)
    p, q = p.scatter(-1, ids, -math.inf), q.scatter(-1, ids, -math.inf)
    mass, student_mass = torch.logsumexp(p, -1), torch.logsumexp(q, -1)
    conditional = p - mass.unsqueeze(-1)
    difference = conditional - (q - student_mass.unsqueeze(-1))
    # Inside the top k this is 0 * (inf - inf).
    terms = torch.where(p == -math.inf, torch.zeros_like(p), conditional.exp() * difference)
    return mass.exp() * terms.sum(-1)


def rounding_bound(
    logprobs: "torch.Tensor", student_logprobs: "torch.Tensor", error: float
) -> "torch.Tensor":
    """How far KL(p' || q) can lie from KL(p || q) if no log p'(i) is off by more than `error` nats.

    From sum |p' - p| |log p/q| + sum p' |log p' - log p|, with |p' - p| <= (e^error - 1) p:
    log-probabilities [..., n] to [...].
    """
    spread = (logprobs.exp() * (logprobs - student_logprobs).abs()).sum(-1)
    return math.expm1(error) * spread + math.exp(error) * error


def _logprobs(logits: "torch.Tensor", temperature: float) -> "torch.Tensor":
    import torch

    return torch.log_softmax(logits.double() / temperature, -1)
