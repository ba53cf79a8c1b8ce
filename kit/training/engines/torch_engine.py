"""Plain data parallelism: every rank holds the whole model, gradients are summed once a step.

Memory a rank in bytes a parameter: 4 weight + 4 gradient + 8 moments in float32; in bfloat16 2 + 4 + 4 + 8,
gradients being summed over micro-batches in float32. A step sends each gradient once through the ring.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kit.training.engines.base import MOMENTS, make_adamw, owners, parameter_groups, plain, trained
from kit.training.ranks import Ranks
from kit.training.recipe import OptimizerSection

if TYPE_CHECKING:
    import torch

BUCKET = 1 << 24
"""Elements that travel in one all-reduce."""


class TorchEngine:
    """See `TrainEngine` for the methods."""

    def __init__(self, module: Any, section: OptimizerSection, ranks: Ranks) -> None:
        import torch

        self.module = module.to(ranks.device)
        self.updates = 0
        self._ranks = ranks
        self._section = section
        self._trained = trained(self.module)
        # The optimizer's own copies; where the weights are precise enough, the weights themselves.
        self._masters: list[torch.Tensor] = [
            parameter if parameter.dtype in (torch.float32, torch.float64) else _master(parameter)
            for _, parameter in self._trained
        ]
        named = [(name, master) for (name, _), master in zip(self._trained, self._masters, strict=True)]
        self._optimizer = make_adamw(parameter_groups(named, section), section)

    def backward(self, loss: "torch.Tensor") -> None:
        """Add this micro-batch's gradients to the masters'."""
        loss.backward()
        for (_, parameter), master in zip(self._trained, self._masters, strict=True):
            if master is not parameter and parameter.grad is not None:
                grad = parameter.grad.to(master.dtype)
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                parameter.grad = None

    def step(self, lr: float) -> float:
        """Sum over ranks, clip, update."""
        import torch

        grads = []
        for master in self._masters:
            if master.grad is None:  # this rank had no rows, or no loss reached the parameter
                master.grad = torch.zeros_like(master)
            grads.append(master.grad)
        if self._ranks.world_size > 1:
            _sum_over_ranks(grads)
        norm = float(torch.nn.utils.get_total_norm(grads))
        if math.isfinite(norm):
            limit = self._section.max_grad_norm
            if 0 < limit < norm:
                torch._foreach_mul_(grads, limit / norm)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
            self.updates += 1
            with torch.no_grad():
                for (_, parameter), master in zip(self._trained, self._masters, strict=True):
                    if master is not parameter:
                        parameter.copy_(master)
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def gradients(self) -> "dict[str, torch.Tensor]":
        """Gradients by name before `step`, this rank's own: for tests."""
        import torch

        pairs = zip(self._trained, self._masters, strict=True)
        return {
            name: torch.zeros_like(master) if master.grad is None else master.grad
            for (name, _), master in pairs
        }

    def state(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Every rank has everything; each gives its share."""
        sizes = [master.numel() for master in self._masters]
        shares = owners(sizes, self._ranks.world_size)
        for (name, _), master, owner in zip(self._trained, self._masters, shares, strict=True):
            if owner != self._ranks.rank:
                continue
            yield f"weight/{name}", master.detach()
            moments = self._optimizer.state.get(master, {})
            for key in MOMENTS:
                if key in moments:
                    yield f"{key}/{name}", moments[key]

    def load_state(self, tensors: Mapping[str, "torch.Tensor"], updates: int) -> None:
        """Copy in place; the moments are made first where there were updates."""
        import torch

        self.updates = updates
        with torch.no_grad():
            for (name, parameter), master in zip(self._trained, self._masters, strict=True):
                master.copy_(tensors[f"weight/{name}"])
                if master is not parameter:
                    parameter.copy_(master)
                if updates:
                    self._optimizer.state[master] = adam_state(tensors, name, master, updates)

    def weights(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """The module's own parameters, frozen ones too."""
        for name, parameter in self.module.named_parameters():
            yield plain(name), parameter.detach()


def adam_state(
    tensors: Mapping[str, "torch.Tensor"], name: str, master: "torch.Tensor", updates: int
) -> "dict[str, torch.Tensor]":
    """AdamW's state of one parameter from a checkpoint."""
    import torch

    moments = {key: tensors[f"{key}/{name}"].to(master) for key in MOMENTS}
    return {"step": torch.tensor(float(updates), device=master.device), **moments}


def _master(parameter: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.nn.Parameter(parameter.detach().to(torch.float32))


def _sum_over_ranks(grads: "list[torch.Tensor]") -> None:
    """In place; small gradients travel together."""
    import torch
    import torch.distributed as dist

    bucket: list[torch.Tensor] = []
    for index, grad in enumerate(grads):
        bucket.append(grad)
        following = grads[index + 1] if index + 1 < len(grads) else None
        full = (
            sum(item.numel() for item in bucket) + (following.numel() if following is not None else 0)
            > BUCKET
        )
        if following is None or full or following.dtype != grad.dtype:
            flat = torch.cat([item.flatten() for item in bucket])
            dist.all_reduce(flat)
            parts = flat.split([item.numel() for item in bucket])
            for item, part in zip(bucket, parts, strict=True):
                item.copy_(part.view_as(item))
            bucket = []
