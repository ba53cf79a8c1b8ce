"""From a recipe to a model in an engine: the expensive part, after everything cheap was checked."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.training import rng
from kit.training.engines.base import TrainEngine
from kit.training.model import add_lora, load_causal, wrap
from kit.training.ranks import Ranks
from kit.training.recipe import ModelSection, TrainRecipe


@dataclass(frozen=True)
class Started:
    """An engine, and the models inside it that export needs."""

    engine: TrainEngine
    model: Any
    adapted: Any


def uses_deepspeed(recipe: TrainRecipe) -> bool:
    """Whether anything is partitioned; ZeRO stage 0 is plain torch."""
    return recipe.parallel.engine == "deepspeed" and recipe.parallel.zero_stage > 0


def check_start(recipe: TrainRecipe) -> None:
    """Raise for combinations that no engine has.

    Raises:
        ValueError: naming the setting and the way out.
    """
    if uses_deepspeed(recipe) and recipe.model.dtype == "float64":
        raise ValueError(
            "model.dtype = 'float64' needs parallel.engine = 'torch': DeepSpeed has no such precision"
        )
    lora = recipe.model.lora
    if lora is not None and lora.quantize_base == "nf4":
        import importlib.util

        import torch

        if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError("model.lora.quantize_base = 'nf4' needs CUDA and the package bitsandbytes")


@dataclass(frozen=True)
class Parts:
    """What a phase's model is made by; a causal LM's parts by default.

    Args:
        load: (folder, section, quantize=...) -> model.
        adapt: (model, LoRA section) -> PEFT model around it.
        wrap: (model, adapted=..., chunk=...) -> module for the engines.
    """

    load: Callable[..., Any] = load_causal
    adapt: Callable[..., Any] = add_lora
    wrap: Callable[..., Any] = wrap


def start(recipe: TrainRecipe, folder: Path, ranks: Ranks, parts: Parts | None = None) -> Started:
    """Load the model, adapt it, and put it into the engine that the recipe names."""
    import torch

    # Adapters are drawn at random: the same on every rank, whatever ran before.
    torch.manual_seed(recipe.seed)
    section, parts = recipe.model, parts or Parts()
    quantize = section.lora is not None and section.lora.quantize_base == "nf4"
    with partitioned(recipe, section.dtype) if uses_deepspeed(recipe) else contextlib.nullcontext():
        model = parts.load(folder, section, quantize=quantize)
        adapted = None
        if section.lora is not None:
            adapted = parts.adapt(model, section.lora)
        if section.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        module = parts.wrap(model, adapted=adapted, chunk=section.head_chunk)
        engine = _engine(recipe, module, ranks)
    rng.seed(recipe.seed + 1 + ranks.rank)  # dropout differs from rank to rank
    return Started(engine, model, adapted)


def _engine(recipe: TrainRecipe, module: Any, ranks: Ranks) -> TrainEngine:
    if uses_deepspeed(recipe):
        from kit.training.engines.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(module, recipe.optimizer, recipe.parallel, recipe.model.dtype, ranks)
    from kit.training.engines.torch_engine import TorchEngine

    return TorchEngine(module, recipe.optimizer, ranks)


@contextlib.contextmanager
def partitioned(recipe: TrainRecipe, dtype: str, *, always: bool = False) -> Iterator[None]:
    """While entered, transformers loads weights straight into ZeRO-3 partitions, where that is the stage.

    Args:
        always: for a frozen model that is partitioned whatever the stage.
    """
    from kit.training.engines.deepspeed_engine import prepare, zero_config

    prepare()
    parallel = recipe.parallel
    if not always and parallel.zero_stage != 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig

    if always:
        parallel = parallel.model_copy(update={"zero_stage": 3, "offload_optimizer": False})
    # transformers looks for it as long as somebody holds it.
    held = HfDeepSpeedConfig(zero_config(parallel, dtype, recipe.optimizer.max_grad_norm))
    try:
        yield
    finally:
        del held


def freeze(model: Any, section: ModelSection, recipe: TrainRecipe, ranks: Ranks, *, partition: bool) -> Any:
    """A model for looking only: wrapped, in evaluation mode, partitioned over the ranks on request."""
    model.requires_grad_(False)
    model.eval()
    module = wrap(model, chunk=section.head_chunk)
    if not partition:
        return module.to(ranks.device)
    import deepspeed

    from kit.training.engines.deepspeed_engine import zero_config

    parallel = recipe.parallel.model_copy(update={"zero_stage": 3, "offload_optimizer": False})
    engine, *_ = deepspeed.initialize(
        model=module, config=zero_config(parallel, section.dtype, 0.0), dist_init_required=False
    )
    engine.eval()
    return engine
