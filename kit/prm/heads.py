"""The models that score steps, and the module that trains them: one log-odds for each labelled step.

A classifier is read at the step's end: `*ForTokenClassification` with one linear layer, or Qwen2.5-Math-PRM's
Linear-ReLU-Linear on Qwen2 (Zhang et al. 2025, arXiv 2501.07301). `logprob` is the causal LM itself: how
likely it finds the step's own tokens. New layers are drawn from the recipe's seed, the same for any number
of ranks and any engine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.losses.span_logprobs import chunked_logprobs
from kit.losses.step_labels import log_odds_of
from kit.prm.recipe import HeadSection
from kit.prm.rows import StepRow
from kit.training.attention import register
from kit.training.batches import MicroBatch
from kit.training.model import load_causal, load_config, pick_attention
from kit.training.recipe import LoraSection, ModelSection
from submission.prm.heads import QWEN_PRM

if TYPE_CHECKING:
    import torch

SCALARS = ("log_scale", "shift")
"""Parameters of the wrapper, not of the model: `logprob`'s scale and bias, in units of the learning rate."""
CLASSIFIER = "score"


@dataclass
class Scalars:
    """`logprob`'s log-odds are scale * e^(gain * log_scale) * sum + bias + gain * shift.

    Args:
        scale, bias: before the first step. Without a fit a step of many tokens would be all but surely
            wrong.
        gain: `head.scalar_lr` / `optimizer.lr`. Adam moves each parameter by about the rate, and a language
            model's is far too small for these two.
    """

    scale: float = 1.0
    bias: float = 0.0
    gain: float = 1.0

    def now(self, log_scale: float, shift: float) -> tuple[float, float]:
        """Scale and bias under the wrapper's parameters."""
        return self.scale * math.exp(self.gain * log_scale), self.bias + self.gain * shift


def check_head(config: Any, head: HeadSection, place: str) -> None:
    """Raise where such a model has no such head.

    Raises:
        ValueError: naming the heads that it has.
    """
    from transformers import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING

    if head.kind == "logprob":
        return
    if head.kind == "process_reward" and config.model_type != "qwen2":
        raise ValueError(
            f"head.kind = 'process_reward' is Qwen2's, and {place} is a {config.model_type}: take "
            "'token_classification' or 'logprob'"
        )
    if type(config) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        raise ValueError(
            f"transformers has no token classification for {config.model_type} ({place}): take "
            "head.kind = 'logprob'"
        )


def load_scorer(folder: Path, section: ModelSection, head: HeadSection, seed: int, *, quantize: bool) -> Any:
    """The model with its head; a classifier that the checkpoint has is kept, one that it lacks is drawn.

    Raises:
        ValueError: transformers cannot load it, or weights other than the classifier's are missing.
    """
    if head.kind == "logprob":
        return load_causal(folder, section, quantize=quantize)
    if quantize:
        raise ValueError("model.lora.quantize_base = 'nf4' is for the head 'logprob' alone")
    import torch

    register()
    config = load_config(folder)
    if hasattr(config, "auto_map"):  # Qwen's own PRMs bring code for what is built here
        del config.auto_map
    config.num_labels = labels = 2 if head.kind == "process_reward" else head.labels
    config.classifier_dropout = head.dropout
    kind = _classifier_class(config, two_layers=head.kind == "process_reward")
    try:
        model, found = kind.from_pretrained(
            str(folder),
            config=config,
            dtype=getattr(torch, section.dtype),
            attn_implementation=pick_attention(section.attention, config),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ImportError, RuntimeError, KeyError) as error:
        raise ValueError(f"transformers could not load {folder} with {labels} labels: {error}") from error
    missing = sorted(found["missing_keys"])
    others = [name for name in missing if not name.startswith(f"{CLASSIFIER}.")]
    ours = [name for name, _ in model.score.named_parameters()]
    if others or (missing and len(missing) < len(ours)):
        raise ValueError(
            f"{folder} lacks {len(missing)} weights ({', '.join((others or missing)[:3])}): obtain the "
            "checkpoint again"
        )
    if missing:
        _draw(model.score, seed, float(getattr(config, "initializer_range", 0.02)))
    model.config.use_cache = False
    name = QWEN_PRM if head.kind == "process_reward" else kind.__name__
    model.config.architectures = [name]
    return model


def _classifier_class(config: Any, *, two_layers: bool) -> Any:
    """transformers' own class for token classification, or one with Qwen2.5-Math-PRM's head in its place."""
    import torch
    from transformers import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING

    plain: Any = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING[type(config)]
    if not two_layers:
        return plain

    class ProcessRewardModel(plain):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            width = config.hidden_size
            self.score = torch.nn.Sequential(
                torch.nn.Linear(width, width),
                torch.nn.ReLU(),
                torch.nn.Linear(width, config.num_labels),
            )
            self.post_init()

    return ProcessRewardModel


def _draw(score: Any, seed: int, spread: float) -> None:
    """Normal weights and zero biases from a generator of their own, partitioned parameters too."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for parameter in score.parameters():
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        made = torch.zeros(shape)
        if len(shape) > 1:
            made.normal_(std=spread, generator=generator)
        with _whole(parameter), torch.no_grad():
            if parameter.shape == made.shape:  # a partitioned one is whole on all ranks inside
                parameter.copy_(made)


def _whole(parameter: Any) -> Any:
    """While entered, a partitioned parameter is whole, and what is written to it on rank 0 stays."""
    import contextlib

    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


def adapt_scorer(model: Any, section: LoraSection, head: HeadSection) -> Any:
    """A PEFT model of which the adapters are trained, and a classifier's layer as a whole.

    Raises:
        ValueError: a target names no module of the model, or the classifier.
    """
    import torch

    from kit.training.model import add_lora

    if head.kind == "logprob":
        return add_lora(model, section)
    adapted = add_lora(model, section, task="", leave=(CLASSIFIER,))
    for parameter in model.score.parameters():
        parameter.requires_grad_(True)
        # As precise as the adapters; a partitioned one has the engine's own copy in float32.
        if parameter.dtype == torch.bfloat16 and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.float()
    return adapted


def wrap_scorer(
    model: Any,
    head: HeadSection,
    *,
    adapted: Any = None,
    chunk: int = 0,
    scalars: "Scalars | None" = None,
) -> Any:
    """The module that engines train: `module(micro, loss) -> (sum, other sums)`.

    Args:
        adapted: the PEFT model around it, kept for export.
        chunk: tokens whose logits exist at one time; 0 takes the device's default.
        scalars: of `logprob`; what they start from may be set later.
    """
    import torch

    known = scalars or Scalars()

    class ScoredModel(torch.nn.Module):  # type: ignore[misc]
        """The model under one root, as partitioned engines want it."""

        def __init__(self) -> None:
            super().__init__()
            # The engines take this name off a parameter's: what is left is transformers' own.
            self.causal = model
            object.__setattr__(self, "adapted", adapted)
            if head.kind == "logprob":
                dtype = model.get_input_embeddings().weight.dtype
                self.log_scale = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
                self.shift = torch.nn.Parameter(torch.zeros(1, dtype=dtype))

        def log_odds(self, micro: MicroBatch) -> torch.Tensor:
            """[S] of all steps of the micro-batch's rows, in order."""
            assert getattr(micro, "sharing", None) is None, "every row stands by itself"
            decoder = model.get_decoder()
            states = decoder(
                input_ids=micro.input_ids,
                position_ids=micro.position_ids,
                use_cache=False,
                **micro.attention_arguments(),
            ).last_hidden_state.flatten(0, 1)
            if head.kind != "logprob":
                # `positions` predict the marked tokens: these stand one further.
                read = torch.index_select(states, 0, micro.positions + 1)
                dtype = next(model.score.parameters()).dtype
                return log_odds_of(model.score(model.dropout(read).to(dtype)))
            hidden = torch.index_select(states, 0, micro.positions)
            weight = model.get_output_embeddings().weight
            size = chunk or (2048 if hidden.is_cuda else 256)
            logprobs = chunked_logprobs(hidden, weight, micro.targets, size)
            sums = step_sums(logprobs, micro.rows, prefix=head.span == "prefix")
            scale = known.scale * torch.exp(self.log_scale.to(sums.dtype) * known.gain)
            return sums * scale + (known.bias + self.shift.to(sums.dtype) * known.gain)

        def forward(self, micro: MicroBatch, loss: Any) -> Any:
            """(sum, other sums) of a loss of the steps' log-odds."""
            found = self.log_odds(micro)
            values, extra = loss(found, slice(0, len(found)))
            # A rank's filler has no step: the sum of none still runs back through every layer, as partitions
            # need it.
            return values.sum(), {name: told.sum() for name, told in extra.items()}

    return ScoredModel()


def step_sums(logprobs: "torch.Tensor", rows: Sequence[Any], *, prefix: bool) -> "torch.Tensor":
    """[S] sums over each step's tokens; with `prefix`, over those of the row's steps so far, too.

    Args:
        logprobs: [N], the rows' marked tokens one after another.
        rows: of the micro-batch; a rank's filler has no step.
    """
    import numpy as np
    import torch

    scored = [row for row in rows if isinstance(row, StepRow)]
    if not scored:
        return logprobs[:0]
    sizes = torch.from_numpy(np.concatenate([row.sizes for row in scored])).to(logprobs.device)
    # In float64: a step's sum must not depend on what stands around it.
    sums = torch.segment_reduce(logprobs.double(), "sum", lengths=sizes, axis=0, initial=0.0)
    if prefix:
        sums = torch.cat([part.cumsum(0) for part in sums.split([len(row.sizes) for row in scored])])
    return sums.to(logprobs.dtype)
