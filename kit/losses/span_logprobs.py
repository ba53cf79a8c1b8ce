"""Log-probabilities of tokens through the head, a chunk at a time, with a gradient.

A loss that is not a sum over tokens (one of a whole step's log-probability, say) cannot be differentiated
chunk by chunk as `kit.training.head` does. Here the logits are made twice, forward and backward, and never
kept: memory is 2 x chunk x vocabulary x 4 bytes beside the gradients of hidden states and weight, and time
is the plain head's and one more product.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def chunked_logprobs(
    hidden: "torch.Tensor", weight: "torch.Tensor", targets: "torch.Tensor", chunk: int
) -> "torch.Tensor":
    """log softmax(hidden weight^T) of the targets, differentiable in `hidden` and `weight`.

    Args:
        hidden: [N, H]; N may be 0.
        weight: [V, H] of the head. All V rows count, as they do for an engine that serves the model.
        targets: [N], ids in 0..V-1.
        chunk: tokens whose logits exist at one time.

    Returns:
        [N] in nats, float32 or float64.
    """
    found: torch.Tensor = _function().apply(hidden, weight, targets, chunk)
    return found


@cache
def _function() -> Any:
    """The autograd function; made on first use, since torch is imported where it is used."""
    import torch

    class ChunkedLogprobs(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, targets: Any, chunk: int) -> Any:
            wide = torch.promote_types(hidden.dtype, torch.float32)
            found = torch.zeros(len(hidden), dtype=wide, device=hidden.device)
            normalisers = torch.zeros_like(found)
            for part in _parts(len(hidden), chunk):
                logits = (hidden[part] @ weight.t()).to(wide)
                normalisers[part] = logits.logsumexp(-1)
                found[part] = logits.gather(-1, targets[part].unsqueeze(-1)).squeeze(-1) - normalisers[part]
            ctx.save_for_backward(hidden, weight, targets, normalisers)
            ctx.chunk = chunk
            return found

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, grads: Any) -> Any:
            hidden, weight, targets, normalisers = ctx.saved_tensors
            need_hidden, need_weight = ctx.needs_input_grad[:2]
            wide = normalisers.dtype
            hidden_grad = torch.zeros_like(hidden) if need_hidden else None
            weight_grad = torch.zeros_like(weight, dtype=wide) if need_weight else None
            for part in _parts(len(hidden), ctx.chunk):
                # d log p(t) / d z = onehot(t) - softmax(z)
                logits = (hidden[part] @ weight.t()).to(wide)
                made = logits.sub_(normalisers[part].unsqueeze(-1)).exp_().neg_()
                made.scatter_add_(-1, targets[part].unsqueeze(-1), torch.ones_like(made[:, :1]))
                made = made.mul_(grads[part].unsqueeze(-1)).to(hidden.dtype)
                if hidden_grad is not None:
                    torch.matmul(made, weight, out=hidden_grad[part])
                if weight_grad is not None:
                    weight_grad += made.t() @ hidden[part]
            weight_grad = None if weight_grad is None else weight_grad.to(weight.dtype)
            return hidden_grad, weight_grad, None, None

    return ChunkedLogprobs


def _parts(count: int, chunk: int) -> list[slice]:
    return [slice(at, min(at + chunk, count)) for at in range(0, count, chunk)]
