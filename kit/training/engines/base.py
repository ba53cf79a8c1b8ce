"""The interface that the loop trains through, and what both engines share."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from kit.training.recipe import OptimizerSection

if TYPE_CHECKING:
    import torch

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's two running means, as torch names them."""


class TrainEngine(Protocol):
    """A model being trained. Methods marked collective are called by all ranks, or by none."""

    module: Any
    """The wrapped model (see `kit.training.model.wrap`); calling it is collective where it is partitioned."""
    updates: int
    """Optimizer steps that changed the weights."""

    def backward(self, loss: "torch.Tensor") -> None:
        """Add a micro-batch's gradients. The losses of all ranks and micro-batches of a step are summed.

        Collective.
        """

    def step(self, lr: float) -> float:
        """Update the weights; returns the gradient's 2-norm before clipping, the same on all ranks.

        A norm that is not finite means that nothing was changed. Collective.
        """

    def state(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """This rank's share of weights and moments by name, in the optimizer's precision.

        The union over ranks is whole and does not depend on their number or on the engine. One tensor is in
        memory at a time. Collective.
        """

    def load_state(self, tensors: Mapping[str, "torch.Tensor"], updates: int) -> None:
        """Take over the state of a checkpoint (the union over its ranks). Collective."""

    def weights(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """All weights of the model under transformers' names, whole, one at a time, on every rank.

        Collective; the next one must be asked for before the last is forgotten on all ranks.
        """


def parameter_groups(
    parameters: "Sequence[tuple[str, torch.nn.Parameter]]", section: OptimizerSection
) -> list[dict[str, Any]]:
    """Groups for AdamW: matrices decay, vectors (norms, biases) do not."""

    def dimensions(parameter: Any) -> int:
        return len(getattr(parameter, "ds_shape", parameter.shape))

    decayed = [parameter for _, parameter in parameters if dimensions(parameter) >= 2]
    others = [parameter for _, parameter in parameters if dimensions(parameter) < 2]
    groups = [(decayed, section.weight_decay), (others, 0.0)]
    return [{"params": group, "weight_decay": decay} for group, decay in groups if group]


def make_adamw(groups: list[dict[str, Any]], section: OptimizerSection) -> Any:
    """AdamW in torch's fused form, which runs on CPU and CUDA."""
    import torch

    return torch.optim.AdamW(groups, lr=section.lr, betas=section.betas, eps=section.eps, fused=True)


def owners(sizes: Sequence[int], world_size: int) -> list[int]:
    """Which rank keeps which tensor in a checkpoint: each goes to the rank with the least so far."""
    load = [0] * world_size
    chosen = []
    for size in sizes:
        rank = load.index(min(load))
        load[rank] += size
        chosen.append(rank)
    return chosen


def trained(module: Any) -> "list[tuple[str, torch.nn.Parameter]]":
    """Names (transformers' own) and parameters that require a gradient, tied ones once."""
    return [(plain(name), value) for name, value in module.named_parameters() if value.requires_grad]


def plain(name: str) -> str:
    """A parameter's name without the wrapper's prefix."""
    return name.removeprefix("causal.")
