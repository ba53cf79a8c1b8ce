"""What every training phase's recipe shares: TOML sections checked before anything expensive starts."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from submission.recipes import Recipe

Dtype = Literal["float32", "bfloat16", "float64"]


class LoraSection(Recipe):
    """Low-rank adapters through PEFT (Hu et al. 2021)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()
    """Names of modules to adapt; empty takes every linear layer but the head."""
    quantize_base: Literal["none", "nf4"] = "none"
    """`nf4` keeps the frozen base in 4 bits (QLoRA, Dettmers et al. 2023): CUDA with bitsandbytes only."""


class ModelSection(Recipe):
    """The model that is trained."""

    path: str = "Qwen/Qwen2.5-32B"
    """Folder of a checkpoint, or a hub name."""
    tokenizer: str = ""
    """Folder or hub name of the tokenizer; empty takes the model's own."""
    dtype: Dtype = "bfloat16"
    """Of the forward and backward pass. The optimizer's copy of the weights is float32, or float64 for it."""
    attention: Literal["auto", "segments", "sdpa", "flash_attention_2"] = "auto"
    """`segments` attends within each packed sequence by torch's fused kernel, `sdpa` masks a whole row
    (quadratic in its length, right for sliding windows too), `flash_attention_2` wants flash-attn and CUDA.
    `auto` takes the last where it is installed, else `segments`, else `sdpa` for models with windows."""
    head_chunk: int = Field(default=0, ge=0)
    """Tokens whose logits exist at one time; 0 takes 256 on a CPU and 2048 on CUDA."""
    gradient_checkpointing: bool = True
    lora: LoraSection | None = None


class MicroSection(Recipe):
    """How the rows of an optimizer step are cut into forward passes; it changes no gradient."""

    max_length: int = Field(default=16384, ge=2)
    """Tokens of prompt and completion together at most."""
    micro_batch_tokens: int = Field(default=0, ge=0)
    """Tokens of one forward pass on one rank at most, padding included; 0 takes `max_length`."""
    packing: bool = True
    """Several sequences in one row without padding; each attends to itself only."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)

    @property
    def capacity(self) -> int:
        """Tokens of one micro-batch at most."""
        return max(self.micro_batch_tokens, self.max_length)


class BatchSection(MicroSection):
    """What one optimizer step sees. The order depends on the seed and `batch_size` alone."""

    batch_size: int = Field(default=4, ge=1)
    """Sequences of one optimizer step, over all ranks together."""
    overlong: Literal["drop", "truncate"] = "drop"
    """What is done with a row of more than `max_length` tokens."""
    epochs: float = Field(default=3.0, gt=0)
    max_steps: int = Field(default=0, ge=0)
    """Stop after so many optimizer steps; 0 goes by `epochs`."""
    shuffle: bool = True


class OptimizerSection(Recipe):
    """AdamW (Loshchilov & Hutter 2019) with a learning rate schedule."""

    lr: float = Field(default=5e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to this 2-norm; 0 leaves them."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """`wsd` is warm-up, stable, decay (Hu et al. 2024) with the last fifth of the steps as decay."""
    warmup_ratio: float = Field(default=0.05, ge=0, le=1)
    """Share of all steps during which the rate rises from 0."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """The rate at the end, as a share of `lr`."""


class ParallelSection(Recipe):
    """How the model is spread over ranks."""

    engine: Literal["torch", "deepspeed"] = "deepspeed"
    """`torch` replicates the model and sums gradients; `deepspeed` can partition it."""
    zero_stage: Literal[0, 1, 2, 3] = 3
    """What is partitioned (Rajbhandari et al. 2020): 1 optimizer, 2 and gradients, 3 and parameters; 0 is
    nothing, which plain torch does."""
    offload_optimizer: bool = False
    """Keep and step the optimizer on the CPU (ZeRO 1 to 3)."""
    offload_parameters: bool = False
    """Keep the parameters on the CPU (ZeRO 3)."""
    timeout: float = Field(default=1800.0, gt=0)
    """Seconds after which a collective operation that some rank never joined is an error."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.engine == "torch" and (self.offload_optimizer or self.offload_parameters):
            raise ValueError("offloading needs parallel.engine = 'deepspeed'")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("parallel.offload_optimizer needs zero_stage 1, 2 or 3")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError("parallel.offload_parameters needs zero_stage = 3")
        return self


class CheckpointSection(Recipe):
    """When to save, and what to keep."""

    every: int = Field(default=100, ge=0)
    """Optimizer steps between checkpoints; 0 saves at the end and on a signal only."""
    keep_last: int = Field(default=2, ge=1)
    keep_best: int = Field(default=1, ge=0)
    """Also keep so many with the best evaluation metric."""
    asynchronous: bool = True
    """Write in a thread while training goes on; costs a copy of the rank's share in CPU memory."""
    resume: bool = True
    """Go on from the last good checkpoint in `out`, if there is one."""


class EvaluationSection(Recipe):
    """Evaluation on held-out rows during training."""

    every: int = Field(default=0, ge=0)
    """Optimizer steps between evaluations; 0 never evaluates."""
    rows: int = Field(default=256, ge=1)
    """Rows of the validation data at most."""


class LoggingSection(Recipe):
    """Metrics always go to `metrics.jsonl`; the rest on request."""

    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    project: str = "aimo"
    name: str = ""
    """Name of the run; empty takes the output folder's."""
    live: Literal["auto", "always", "never"] = "auto"
    """The terminal view; `auto` shows it on a terminal and prints lines elsewhere."""


class FaultsSection(Recipe):
    """How much may go wrong before it is an error. Everything is counted and reported in any case."""

    max_dropped_share: float = Field(default=0.2, ge=0, le=1)
    """Rows lost at loading: over length, without a trained token, unreadable."""
    max_skipped_share: float = Field(default=0.05, ge=0, le=1)
    """Optimizer steps skipped because a loss or gradient was not finite."""
    grace_steps: int = Field(default=20, ge=1)
    """Steps before `max_skipped_share` is looked at."""


class AssumptionSection(Recipe):
    """What `--dry-run` cannot know without the cluster and the data; printed as assumed."""

    gpus: int = Field(default=16, ge=1)
    gpu_memory_gb: float = Field(default=80.0, gt=0)
    """Of one GPU, in 10^9 bytes."""
    gpu_tflops: float = Field(default=989.0, gt=0)
    """Peak dense bf16 TFLOP/s of one GPU (H100 SXM: 989)."""
    mfu: float = Field(default=0.4, gt=0, le=1)
    rows: int = Field(default=0, ge=0)
    """Rows of the set where it cannot be read here; 0 reads it."""
    mean_tokens: float = Field(default=0.0, ge=0)
    """Mean tokens of a row where the set cannot be read here."""


class TrainRecipe(Recipe):
    """Sections that all phases have."""

    out: Path = Path("runs/train")
    """Folder of the run: checkpoints, metrics, the exported model."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    model: ModelSection = ModelSection()
    batch: MicroSection = MicroSection()
    optimizer: OptimizerSection = OptimizerSection()
    parallel: ParallelSection = ParallelSection()
    checkpoint: CheckpointSection = CheckpointSection()
    evaluation: EvaluationSection = EvaluationSection()
    logging: LoggingSection = LoggingSection()
    faults: FaultsSection = FaultsSection()


class TableRecipe(TrainRecipe):
    """A run over a fixed set of rows, in epochs."""

    batch: BatchSection = BatchSection()
