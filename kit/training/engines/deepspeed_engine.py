"""DeepSpeed ZeRO 1, 2 and 3 (Rajbhandari et al. 2020), with its checkpoints replaced by ours.

DeepSpeed's own checkpoints are pickles that fit one number of ranks and one stage. Here every weight and
moment is gathered by itself and kept by one rank, so a checkpoint fits any number of ranks, any stage, and
plain torch. Gathering sends 12 bytes a parameter through the network once a save.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kit.quiet import quiet_deepspeed
from kit.training.engines.base import MOMENTS, make_adamw, owners, parameter_groups, plain, trained
from kit.training.ranks import Ranks
from kit.training.recipe import OptimizerSection, ParallelSection

if TYPE_CHECKING:
    import torch


def zero_config(parallel: ParallelSection, dtype: str, max_grad_norm: float) -> dict[str, Any]:
    """DeepSpeed's configuration for a recipe."""
    zero: dict[str, Any] = {"stage": parallel.zero_stage, "contiguous_gradients": True}
    if parallel.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = False
    if parallel.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if parallel.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # The loop decides where a step ends: how many micro-batches it has follows from its rows.
        "managed_gradient_accumulation": False,
        "gradient_clipping": max_grad_norm,
        "bf16": {
            "enabled": dtype == "bfloat16",
            **({"check_grad_overflow": True} if dtype == "bfloat16" else {}),
        },
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 62,
        "wall_clock_breakdown": False,
    }


def prepare() -> None:
    """Import DeepSpeed quietly, and keep it from compiling its own CPU communication (minutes of g++)."""
    import logging

    quiet_deepspeed()
    import deepspeed
    from deepspeed.ops import __compatible_ops__
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    __compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if _has_cuda() else "gloo", verbose=False, dist_init_required=False)


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


class DeepSpeedEngine:
    """See `TrainEngine` for the methods."""

    def __init__(
        self, module: Any, section: OptimizerSection, parallel: ParallelSection, dtype: str, ranks: Ranks
    ) -> None:
        import deepspeed

        self.updates = 0
        self._ranks = ranks
        self._stage = parallel.zero_stage
        optimizer = make_adamw(parameter_groups(trained(module), section), section)
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=zero_config(parallel, dtype, section.max_grad_norm),
            dist_init_required=False,
        )
        self.module = self._engine
        self._zero = self._engine.optimizer
        self._trained = trained(module)
        self._module = module

    def backward(self, loss: "torch.Tensor") -> None:
        """DeepSpeed means gradients over ranks; the step's losses are a sum."""
        self._engine.backward(loss * self._ranks.world_size, scale_wrt_gas=False)

    def step(self, lr: float) -> float:
        """Reduce what is left to reduce, clip, update the partitions, gather where the stage wants it."""
        for group in self._zero.optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        if self._zero.overflow:
            return math.nan
        self.updates += 1
        return float(self._engine.get_global_grad_norm() or 0.0)

    def state(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Gather each tensor on all ranks; its owner keeps it."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self._stage < 3 and self.updates:
            self._link_moments()
        sizes = [self._numel(parameter) for _, parameter in self._trained]
        shares = owners(sizes, self._ranks.world_size)
        for (name, parameter), owner in zip(self._trained, shares, strict=True):
            full = safe_get_full_fp32_param(parameter)
            if owner == self._ranks.rank:
                yield f"weight/{name}", full
            for key in MOMENTS if self.updates else ():
                full = safe_get_full_optimizer_state(parameter, key)
                if owner == self._ranks.rank:
                    yield f"{key}/{name}", full

    def load_state(self, tensors: Mapping[str, "torch.Tensor"], updates: int) -> None:
        """Weights into model and float32 partitions, moments into an optimizer that has made none yet."""
        import torch

        self.updates = updates
        if updates:
            self._make_moments(updates)
        with torch.no_grad():
            for name, parameter in self._trained:
                weight = tensors[f"weight/{name}"]
                self._load_weight(parameter, weight)
                self._load_partition(parameter, weight, None)
                for key in MOMENTS if updates else ():
                    self._load_partition(parameter, tensors[f"{key}/{name}"], key)

    def weights(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Stage 3 gathers one parameter at a time."""
        import deepspeed

        for name, parameter in self._module.named_parameters():
            if self._stage < 3:
                yield plain(name), parameter.detach()
                continue
            with deepspeed.zero.GatheredParameters([parameter]):
                yield plain(name), parameter.detach()

    def _numel(self, parameter: Any) -> int:
        return int(getattr(parameter, "ds_numel", parameter.numel()))

    def _flats(self) -> "list[torch.Tensor]":
        zero = self._zero
        return list(
            zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        )

    def _make_moments(self, updates: int) -> None:
        """What AdamW's first step would make, for the flat partitions that it sees."""
        import torch

        for flat in self._flats():
            step = torch.tensor(float(updates), device=flat.device)
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            self._zero.optimizer.state[flat] = {"step": step, **moments}
        if self._stage < 3:
            self._link_moments()

    def _link_moments(self) -> None:
        """DeepSpeed 0.19 links moments to parameters after the first group's first step: not the others'."""
        self._zero._hp_optimizer_states_linked = False
        self._zero._lazy_init_hp_params_optimizer_state()

    def _load_weight(self, parameter: Any, value: "torch.Tensor") -> None:
        import deepspeed

        if self._stage < 3:
            parameter.copy_(value)
            return
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if self._ranks.main:
                parameter.copy_(value)

    def _load_partition(self, parameter: Any, value: "torch.Tensor", key: str | None) -> None:
        """Copy this rank's part of a whole tensor into the flat partition of weights (no key) or moments."""
        if self._stage == 3:
            part, _ = self._zero._get_fp32_opt_state_partition(parameter, False, key)
            begin = part.numel() * self._zero._get_param_partition_rank(parameter)
            mine = value.flatten()[begin : begin + part.numel()]  # the last rank's partition is padded
            part[: mine.numel()].copy_(mine)
            return
        mapping = parameter._hp_mapping
        if mapping is not None:  # None: no element of it is this rank's
            address = mapping.lp_fragment_address
            mine = value.flatten().narrow(0, address.start, address.numel)
            mapping.get_hp_fragment(key).copy_(mine)
