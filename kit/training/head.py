"""The language-model head and the loss together, a chunk of tokens at a time.

The logits of a reasoning trace are its largest tensor: 16,384 tokens of a 152,064-token vocabulary are 10 GB
in float32, and training holds several such. Here only `chunk` tokens' logits exist at one time: each chunk's
loss is differentiated in the forward pass, and only its gradient with respect to the hidden states (and the
head's weight) is kept, as Liger Kernel's fused linear cross-entropy does (Hsu et al. 2024). Any loss that is
a sum over tokens fits. Memory: 3 x chunk x vocabulary x 4 bytes, plus hidden states and one copy of the
weight's gradient; time is that of the plain head, and nothing is computed for tokens without a loss.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from kit.training.products import add_product, product

if TYPE_CHECKING:
    import torch

TokenLoss = Callable[["torch.Tensor", slice], tuple["torch.Tensor", dict[str, "torch.Tensor"]]]
"""(logits [n, V], which of the N tokens) -> (loss [n], other quantities [n] by name, without gradient).

One with an attribute `look`, a function of the same arguments, has it called on all chunks first, without
gradients: a loss that depends on a whole sequence learns there what it needs. It costs the head's product
once more.
"""


def head_loss(
    hidden: "torch.Tensor", weight: "torch.Tensor", loss: TokenLoss, chunk: int
) -> tuple["torch.Tensor", dict[str, "torch.Tensor"]]:
    """Sum of a loss over tokens, differentiable in `hidden` and `weight`.

    Args:
        hidden: [N, H], the hidden states that predict; N may be 0.
        weight: [V, H] of the head.
        loss: per-token loss of a chunk's logits (in the dtype of `hidden`).
        chunk: tokens a chunk.

    Returns:
        The sum (a scalar of at least float32), and the sums of the other quantities.
    """
    import torch

    sums: dict[str, torch.Tensor] = {}

    def record(extra: dict[str, torch.Tensor]) -> None:
        for name, values in extra.items():
            value = values.detach().sum()
            sums[name] = sums[name] + value if name in sums else value

    total = _function().apply(hidden, weight, loss, chunk, record, torch.is_grad_enabled())
    return total, sums


@cache
def _function() -> Any:
    """The autograd function; made on first use, since torch is imported where it is used."""
    import torch

    class HeadLoss(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(
            ctx: Any, hidden: Any, weight: Any, loss: TokenLoss, chunk: int, record: Any, training: bool
        ) -> Any:
            # What needs a gradient says so even where gradients are off.
            need_hidden, need_weight = (training and needed for needed in ctx.needs_input_grad[:2])
            wide = torch.promote_types(hidden.dtype, torch.float32)
            total = torch.zeros((), dtype=wide, device=hidden.device)
            hidden_grad = torch.zeros_like(hidden) if need_hidden else None
            weight_grad = torch.zeros_like(weight, dtype=wide) if need_weight else None
            parts = [slice(at, min(at + chunk, len(hidden))) for at in range(0, len(hidden), chunk)]
            look: Any = getattr(loss, "look", None)
            for part in parts if look is not None else ():
                look(product(hidden[part], weight), part)
            for part in parts:
                logits = product(hidden[part], weight)
                with torch.set_grad_enabled(need_hidden or need_weight):
                    leaf = logits.requires_grad_(need_hidden or need_weight)
                    values, extra = loss(leaf, part)
                    chunk_sum = values.sum()
                total += chunk_sum.detach()
                record(extra)
                if not chunk_sum.requires_grad:
                    continue
                (grad,) = torch.autograd.grad(chunk_sum, leaf)
                if hidden_grad is not None:
                    hidden_grad[part] = product(grad, weight.t())
                if weight_grad is not None:
                    # Products in the dtype of the weights, summed over the chunks in at least float32.
                    add_product(weight_grad, grad.t(), hidden[part].t())
            ctx.grads = (hidden_grad, weight_grad, weight.dtype)
            return total

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, scale: Any) -> Any:
            assert ctx.grads is not None, "the gradients were handed on by the first backward pass"
            hidden_grad, weight_grad, dtype = ctx.grads
            ctx.grads = None  # in place from here: a second backward pass would be wrong
            assert hidden_grad is not None or weight_grad is not None
            hidden_grad = None if hidden_grad is None else hidden_grad.mul_(scale)
            weight_grad = None if weight_grad is None else weight_grad.mul_(scale).to(dtype)
            return hidden_grad, weight_grad, None, None, None, None

    return HeadLoss
