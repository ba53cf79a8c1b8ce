"""Distillation of token distributions: forward KL, reverse KL, generalised JSD; full, or from a top-k cache.

With student and teacher distributions p_S = softmax(z_S / T) and p_T = softmax(z_T / T) over the vocabulary:

    forward_kl   KL(p_T || p_S)                                    Hinton et al. 2015
    reverse_kl   KL(p_S || p_T)                                    Gu et al. 2024 (MiniLLM)
    jsd          b KL(p_T || m) + (1 - b) KL(p_S || m),  m = b p_T + (1 - b) p_S
                                                                   Agarwal et al. 2024 (GKD)

Everything is per token, without a reduction over tokens. The gradients are written out instead of left to
autograd, which holds up to six [N, V] tensors for the JSD. With w_i = d KD / d log p_S(i), where the terms
that are the same for all i are left out, since they vanish under the softmax,

    forward_kl   w_i = -p_T(i)
    reverse_kl   w_i = p_S(i) log(p_S(i) / p_T(i))
    jsd          w_i = (1 - b) p_S(i) log(p_S(i) / m(i))

and d KD / d z_S(i) = (w_i - p_S(i) sum_j w_j) / T.
"""

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kit.losses.cross_entropy import cross_entropy

if TYPE_CHECKING:
    import torch

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]


class TopK(NamedTuple):
    """A teacher's k likeliest tokens at each position, under softmax(z / T)."""

    ids: "torch.Tensor"
    """[N, k], int64, distinct within a row."""
    logprobs: "torch.Tensor"
    """[N, k], nats."""
    tail_logprob: "torch.Tensor"
    """[N], log of the probability of all other tokens together; -inf where there are none."""


class Terms(NamedTuple):
    """The two parts of the loss, each [N], unweighted; None where its weight is zero."""

    divergence: "torch.Tensor | None"
    cross_entropy: "torch.Tensor | None"


def divergence(
    student_logits: "torch.Tensor",
    teacher_logits: "torch.Tensor",
    *,
    kind: Divergence = "forward_kl",
    temperature: float = 1.0,
    beta: float = 0.5,
    vocab: int | None = None,
) -> "torch.Tensor":
    """Divergence of each token in nats, without the factor T^2. The teacher gets no gradient.

    A token with teacher logit -inf adds nothing to forward_kl. The reverse KL of such a token is infinite,
    and its gradient not a number, unless the student excludes it too.

    Args:
        student_logits: [N, V], of any float type; computed in float32, or float64 where one of the two is.
        teacher_logits: [N, V'].
        kind: which divergence.
        temperature: T, above 0.
        beta: weight of the teacher in the mixture of `jsd`, in (0, 1).
        vocab: number of real tokens. Rows beyond it pad the vocabulary (Qwen2.5 has 151,936 or 152,064 by
            size) and are cut off from both before the softmax. None takes all, and V must equal V'.

    Returns:
        [N], float32 or float64. At most four [N, vocab] tensors in that type live at once (jsd; three for
        the KLs, all this function's own), and one is kept for the backward pass.

    Raises:
        ValueError: vocabularies of different size without `vocab`, or smaller than it.
    """
    import torch

    _check(temperature, beta)
    vocab = _common_vocab(student_logits, teacher_logits, vocab)
    dtype = _precision(student_logits, teacher_logits)
    logits = student_logits[:, :vocab]
    with torch.no_grad():
        student = _scaled(logits, dtype, temperature).log_softmax(-1)
        teacher = _scaled(teacher_logits[:, :vocab], dtype, temperature).log_softmax(-1)
        value, weight, student = _value_and_weight(student, teacher, kind, beta)
        total = weight.sum(-1, keepdim=True)
        gradient = weight.addcmul_(student, total, value=-1).div_(temperature)
    return _attach(logits, value, gradient)


def topk_divergence(
    student_logits: "torch.Tensor",
    teacher: TopK,
    *,
    kind: Divergence = "forward_kl",
    temperature: float = 1.0,
    beta: float = 0.5,
    vocab: int | None = None,
) -> "torch.Tensor":
    """`divergence` between distributions over k + 1 outcomes: the top k tokens, and all others as one.

    Lumping outcomes together never raises a KL or JSD (data-processing inequality), so this is a lower bound
    of the full divergence, and equals it for k = vocab. Within the tail the gradient keeps the student's own
    proportions. The student's tail is summed from its logits, not taken as 1 minus the rest, so it and the
    gradient stay right where it is far below float32's resolution of 1.

    Args:
        student_logits: [N, V], of any float type.
        teacher: probabilities at this very `temperature`, ids below `vocab`.
        kind, temperature, beta, vocab: as in `divergence`; vocab None takes V.

    Returns:
        [N], float32 or float64. Three [N, vocab] tensors in that type live at once, one is kept for the
        backward pass.

    Raises:
        ValueError: `vocab` above V. RuntimeError: ids outside the vocabulary (from torch).
    """
    import torch

    _check(temperature, beta)
    vocab = _common_vocab(student_logits, student_logits, vocab)
    dtype = _precision(student_logits, teacher.logprobs)
    logits = student_logits[:, :vocab]
    ids = teacher.ids
    with torch.no_grad():
        scaled = _scaled(logits, dtype, temperature)
        normaliser = scaled.logsumexp(-1, keepdim=True)
        tail = scaled.scatter(-1, ids, -math.inf)
        tail_mass = tail.logsumexp(-1, keepdim=True)
        student = torch.cat([scaled.gather(-1, ids), tail_mass], dim=-1) - normaliser
        known = torch.cat([teacher.logprobs, teacher.tail_logprob.unsqueeze(-1)], dim=-1).to(dtype)
        value, weight, _ = _value_and_weight(student, known, kind, beta)
        # d log p_S(tail) / d z_i = the student's share of token i within the tail, less p_S(i).
        empty = tail_mass == -math.inf
        gradient = tail.sub_(tail_mass.masked_fill(empty, 0)).exp_().mul_(weight[:, -1:])
        gradient.scatter_add_(-1, ids, weight[:, :-1])
        gradient.addcmul_((scaled - normaliser).exp_(), weight.sum(-1, keepdim=True), value=-1)
        gradient.div_(temperature)
    return _attach(logits, value, gradient)


def distillation_terms(
    student_logits: "torch.Tensor",
    targets: "torch.Tensor",
    teacher: "torch.Tensor | TopK | None",
    *,
    alpha: float,
    temperature: float = 1.0,
    kind: Divergence = "forward_kl",
    beta: float = 0.5,
    vocab: int | None = None,
) -> Terms:
    """Divergence (without T^2) and cross-entropy of each token; a part of weight zero is not computed.

    The cross-entropy runs over all V rows of the student, as in its pretraining: `vocab` cuts off padding
    for the divergence alone.

    Args:
        student_logits: [N, V].
        targets: [N].
        teacher: logits [N, V'], or top-k probabilities at `temperature`; None only with alpha = 0.
        alpha: weight of the divergence, in [0, 1].
        temperature, kind, beta, vocab: as in `divergence`.

    Raises:
        ValueError: no teacher with alpha > 0, or what `divergence` raises.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must lie in [0, 1]")
    parted = None
    if alpha > 0:
        if teacher is None:
            raise ValueError(f"alpha is {alpha}, so a teacher is needed; give one, or alpha = 0")
        compare: Any = topk_divergence if isinstance(teacher, TopK) else divergence
        parted = compare(student_logits, teacher, kind=kind, temperature=temperature, beta=beta, vocab=vocab)
    return Terms(parted, cross_entropy(student_logits, targets) if alpha < 1 else None)


def distillation_loss(
    student_logits: "torch.Tensor",
    targets: "torch.Tensor",
    teacher: "torch.Tensor | TopK | None",
    *,
    alpha: float,
    temperature: float = 1.0,
    kind: Divergence = "forward_kl",
    beta: float = 0.5,
    vocab: int | None = None,
) -> "torch.Tensor":
    """alpha * T^2 * divergence + (1 - alpha) * cross-entropy of each token, [N] (Hinton et al. 2015).

    The factor T^2 keeps the gradient of the divergence at the same size when T changes. Arguments and
    errors are those of `distillation_terms`.
    """
    terms = distillation_terms(
        student_logits,
        targets,
        teacher,
        alpha=alpha,
        temperature=temperature,
        kind=kind,
        beta=beta,
        vocab=vocab,
    )
    return mix(terms, alpha=alpha, temperature=temperature)


def mix(terms: Terms, *, alpha: float, temperature: float) -> "torch.Tensor":
    """The loss [N] from its two parts."""
    parts = []
    if terms.divergence is not None:
        parts.append(alpha * temperature**2 * terms.divergence)
    if terms.cross_entropy is not None:
        parts.append((1 - alpha) * terms.cross_entropy)
    assert parts, "distillation_terms returns at least one part"
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _value_and_weight(
    student: "torch.Tensor", teacher: "torch.Tensor", kind: Divergence, beta: float
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Divergence [N], weights w [N, V] of the module's docstring, and p_S [N, V].

    Takes log-probabilities [N, V] and overwrites both: what it returns lives in their memory.
    """
    import torch

    if kind == "forward_kl":
        ratio = teacher - student
        teacher = teacher.exp_()
        value = _expectation(ratio, teacher).sum(-1)
        return value, teacher.neg_(), student.exp_()
    if kind == "reverse_kl":
        ratio = teacher.neg_().add_(student)
        student = student.exp_()
        weight = _expectation(ratio, student)
        return weight.sum(-1), weight, student
    mixture = teacher + math.log(beta)
    torch.logaddexp(mixture, student + math.log1p(-beta), out=mixture)
    ratio = teacher - mixture
    value = _expectation(ratio, teacher.exp_()).sum(-1).mul_(beta)
    del ratio, teacher
    ratio = mixture.neg_().add_(student)
    student = student.exp_()
    weight = _expectation(ratio, student).mul_(1 - beta)
    return value.add_(weight.sum(-1)), weight, student


def _expectation(ratio: "torch.Tensor", probabilities: "torch.Tensor") -> "torch.Tensor":
    """probabilities * ratio in the memory of `ratio`, with 0 * anything = 0."""
    return ratio.masked_fill_(probabilities == 0, 0).mul_(probabilities)


def _scaled(logits: "torch.Tensor", dtype: "torch.dtype", temperature: float) -> "torch.Tensor":
    """logits / T, never to be written to: may be the logits themselves."""
    logits = logits.to(dtype)
    return logits if temperature == 1 else logits / temperature


def _precision(*tensors: "torch.Tensor") -> "torch.dtype":
    import torch

    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _common_vocab(student: "torch.Tensor", teacher: "torch.Tensor", vocab: int | None) -> int:
    sizes = student.shape[-1], teacher.shape[-1]
    if vocab is None and sizes[0] != sizes[1]:
        raise ValueError(
            f"student and teacher have {sizes[0]} and {sizes[1]} logits: give `vocab`, the number of tokens "
            "of the tokenizer that they share"
        )
    if vocab is not None and not 0 < vocab <= min(sizes):
        raise ValueError(f"vocab is {vocab}, but student and teacher have {sizes[0]} and {sizes[1]} logits")
    return vocab or sizes[0]


def _check(temperature: float, beta: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if not 0 < beta < 1:
        raise ValueError(f"beta is {beta}; it must lie between 0 and 1")


def _attach(logits: "torch.Tensor", value: "torch.Tensor", gradient: "torch.Tensor") -> "torch.Tensor":
    """`value` [N] as a function of `logits` [N, V] with the given gradient [N, V]."""
    attached: torch.Tensor = _given_gradient().apply(logits, value, gradient)
    return attached


@cache
def _given_gradient() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class GivenGradient(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
        @staticmethod
        def forward(ctx: Any, logits: "torch.Tensor", value: "torch.Tensor", gradient: "torch.Tensor") -> Any:
            ctx.save_for_backward(gradient)
            ctx.dtype = logits.dtype
            return value.clone()

        @staticmethod
        @once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, upstream: "torch.Tensor") -> Any:
            (gradient,) = ctx.saved_tensors
            return (upstream.unsqueeze(-1) * gradient).to(ctx.dtype), None, None

    return GivenGradient
