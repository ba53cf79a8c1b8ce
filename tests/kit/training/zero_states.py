"""Run on two ranks by `test_estimate_deepspeed`: trains a small model under ZeRO and tells the bytes held."""

import gc
from typing import Any

import torch

from kit.training.engines.deepspeed_engine import prepare, zero_config
from kit.training.recipe import ParallelSection
from tests.kit.training.test_estimate_real import make


def held_bytes() -> int:
    """Bytes of all tensors alive in this process, shared storage counted once."""
    gc.collect()
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if type(found) in (torch.Tensor, torch.nn.Parameter):
            for tensor in (found, found.grad if found.is_leaf else None):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def held_under_zero(dtype: Any, stage: int) -> int:
    """Two steps, and the bytes between the backward pass and the step of the third."""
    torch.distributed.init_process_group("gloo")
    prepare()
    import deepspeed

    model, _ = make("qwen2", dtype)
    config = zero_config(ParallelSection.parse({"zero_stage": stage}, "test"), dtype, 1.0)
    # So small that it does not count; and every parameter partitioned, however small.
    config["zero_optimization"] |= {"reduce_bucket_size": 1000, "stage3_param_persistence_threshold": 0}
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config, dist_init_required=False
    )
    ids = torch.arange(64)[None]
    for step in range(3):
        engine.backward(engine(input_ids=ids, use_cache=False).logits.float().logsumexp(-1).sum())
        if step < 2:
            engine.step()
    held = held_bytes()
    torch.distributed.barrier()
    return held
