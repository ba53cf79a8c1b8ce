"""Products of float32 matrices on a CPU by oneDNN.

For them torch takes MKL, which does without AVX-512 on AMD's processors: 110 GFLOP/s on a core of an EPYC
where oneDNN, which comes with torch, has 250 (torch 2.13, MKL 2024.2; forward pass and both gradients alike).
The numbers are float32's either way, in another order of additions. Everything else stays torch's own.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def product(left: "torch.Tensor", right: "torch.Tensor") -> "torch.Tensor":
    """left @ right.T, without a gradient of its own.

    Args:
        left: [N, K].
        right: [M, K]; a transposed view costs nothing.
    """
    if not _fits(left, right):
        return left @ right.t()
    import torch

    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return found


def add_product(total: "torch.Tensor", left: "torch.Tensor", right: "torch.Tensor") -> None:
    """total += left @ right.T, which is added up in the dtype of `total`.

    Args:
        total: [N, M].
        left, right: see `product`.
    """
    if total.dtype == left.dtype and not _fits(left, right):
        total.addmm_(left, right.t())
    else:
        total += product(left, right)


def use_products(model: Any) -> None:
    """Make the linear layers of a model multiply by `product`; layers of other classes stay as they are."""
    import torch

    if not _there():
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = _linear_class()


@cache
def _there() -> bool:
    import torch

    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _fits(left: "torch.Tensor", right: "torch.Tensor") -> bool:
    import torch

    return (
        left.device.type == "cpu"
        and left.dtype == right.dtype == torch.float32
        and left.numel() > 0
        and right.numel() > 0
        and _there()
    )


@cache
def _linear_class() -> Any:
    """The layer; made on first use, since torch is imported where it is used."""
    import torch

    class Product(torch.autograd.Function):  # type: ignore[misc]  # torch's class is untyped
        @staticmethod
        def forward(ctx: Any, inputs: Any, weight: Any) -> Any:
            ctx.save_for_backward(inputs, weight)
            return product(inputs, weight)

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, grad: Any) -> Any:
            inputs, weight = ctx.saved_tensors
            inputs_needed, weight_needed = ctx.needs_input_grad
            return (
                product(grad, weight.t()) if inputs_needed else None,
                product(grad.t(), inputs.t()) if weight_needed else None,
            )

    class Linear(torch.nn.Linear):  # type: ignore[misc]  # torch's class is untyped
        def forward(self, inputs: Any) -> Any:
            if not _fits(inputs, self.weight):
                return super().forward(inputs)
            flat = inputs.reshape(-1, inputs.shape[-1])
            output = Product.apply(flat, self.weight).view(*inputs.shape[:-1], -1)
            return output if self.bias is None else output + self.bias

    return Linear
