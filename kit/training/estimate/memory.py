"""Memory of one rank by item, before a run: what mixed-precision AdamW holds, and what ZeRO partitions.

The accounting of parameters, gradients and optimizer states is that of Rajbhandari et al. 2020 (ZeRO): with
bfloat16, 2 + 2 + 12 bytes a parameter. Activations are those of `kit.training.estimate.blocks`. The tests
hold both against real models. What depends on the allocator and on libraries (CUDA context, NCCL
buffers, fragmentation) is not counted here: `kit.training.estimate.plan` keeps a reserve for it.
"""

from dataclasses import dataclass
from typing import Literal

from kit.training.estimate.blocks import (
    Adapters,
    adapted_layers,
    adapter_activation_bytes,
    block_activation_bytes,
    gradient_bytes,
    uses_varlen,
)
from kit.training.estimate.shape import Shape
from kit.training.recipe import Dtype, LoraSection, TrainRecipe

When = Literal["always", "pass", "teacher", "loss", "backward", "step"]
"""always; from the forward pass to the end of the backward pass; or in one of the phases."""

PHASES: dict[When, tuple[When, ...]] = {
    "teacher": ("always", "teacher"),
    "loss": ("always", "pass", "loss"),
    "backward": ("always", "pass", "backward"),
    "step": ("always", "step"),
}
"""A step's phases, one after another: the teacher's forward pass, the student's with the loss at its end,
the backward pass, the optimizer. For each, what is there."""

BYTES: dict[Dtype, int] = {"bfloat16": 2, "float32": 4, "float64": 8}
NF4_BYTES = 0.516
"""Of one weight in NF4 with its double-quantized scales: 4.127 bits (Dettmers et al. 2023)."""
BUCKET = 500_000_000
"""Gradients that DeepSpeed collects before it reduces them (its default `reduce_bucket_size`)."""
HEAD_CHUNK = 2048
"""Tokens whose logits exist at once where `model.head_chunk` is 0, on CUDA."""


@dataclass(frozen=True)
class Item:
    """One thing in memory.

    Args:
        name: what it is.
        bytes: on one GPU, or on one node for CPU memory.
        how: the sum in words.
        when: at what times it is there.
    """

    name: str
    bytes: int
    how: str
    when: When = "always"


@dataclass(frozen=True)
class Memory:
    """What is held on one GPU, and in the CPU memory of one node."""

    gpu: tuple[Item, ...]
    cpu: tuple[Item, ...]

    @property
    def gpu_peak(self) -> int:
        """Bytes at the worst moment."""
        return sum(item.bytes for item in self.worst)

    @property
    def cpu_total(self) -> int:
        """Bytes of one node."""
        return sum(item.bytes for item in self.cpu)

    @property
    def worst_phase(self) -> When:
        """The phase that needs most."""
        return max(PHASES, key=lambda phase: sum(item.bytes for item in self.during(phase)))

    @property
    def worst(self) -> tuple[Item, ...]:
        """The items of the worst phase, largest first."""
        return tuple(sorted(self.during(self.worst_phase), key=lambda item: -item.bytes))

    def during(self, phase: When) -> tuple[Item, ...]:
        """What is on a GPU in a phase."""
        return tuple(item for item in self.gpu if item.when in PHASES[phase])


@dataclass(frozen=True)
class TeacherUse:
    """An online teacher as the ranks hold it."""

    shape: Shape
    dtype: Dtype
    partitioned: bool


@dataclass(frozen=True)
class Cluster:
    """Where it runs."""

    gpus: int
    gpus_per_node: int = 8

    @property
    def ranks_of_node(self) -> int:
        """GPUs in use on one node."""
        return min(self.gpus, self.gpus_per_node)


def memory(
    recipe: TrainRecipe,
    shape: Shape,
    cluster: Cluster,
    teacher: TeacherUse | None = None,
    *,
    cross_entropy: bool = True,
) -> Memory:
    """Memory of a training run with full micro-batches.

    Args:
        cross_entropy: whether the loss has that part besides the teacher's.

    Raises:
        ValueError: LoRA targets that the model does not have.
    """
    gpu, cpu = _states(recipe, shape, cluster)
    tokens = recipe.batch.capacity
    gpu += _activations(recipe, shape, tokens)
    gpu += _working(recipe, shape, cluster)
    gpu += _head(recipe, shape, teacher, cross_entropy=cross_entropy)
    if teacher is not None:
        offload = recipe.parallel.offload_parameters and teacher.partitioned
        for item in _teacher(teacher, cluster, tokens):
            if item.name == "teacher" and offload:
                many = cluster.ranks_of_node
                cpu.append(Item(item.name, item.bytes * many, f"{item.how} x {many} ranks"))
            else:
                gpu.append(item)
    cpu.append(_checkpoint_copy(recipe, shape, cluster))
    return Memory(tuple(item for item in gpu if item.bytes), tuple(item for item in cpu if item.bytes))


# --- parameters, gradients, optimizer ----------------------------------------------------------------


def adapter_parameters(shape: Shape, lora: LoraSection) -> int:
    """Parameters of the low-rank adapters: rank * (inputs + outputs) of each adapted layer.

    Raises:
        ValueError: a target that is no linear layer of a block.
    """
    return shape.layers * lora.rank * sum(sum(shape.linear[name]) for name in adapted_layers(lora))


def trainable_parameters(recipe: TrainRecipe, shape: Shape) -> int:
    """Parameters that the optimizer changes."""
    lora = recipe.model.lora
    return shape.parameters if lora is None else adapter_parameters(shape, lora)


def frozen_bytes(recipe: TrainRecipe, shape: Shape) -> int:
    """Bytes of the base that LoRA leaves alone, in all; 0 without LoRA."""
    lora = recipe.model.lora
    if lora is None:
        return 0
    width = BYTES[recipe.model.dtype]
    quantized = shape.layers * shape.block_weights if lora.quantize_base == "nf4" else 0
    return round(quantized * NF4_BYTES) + (shape.parameters - quantized) * width


def zero_stage(recipe: TrainRecipe) -> int:
    """0 without partitioning."""
    return 0 if recipe.parallel.engine == "torch" else recipe.parallel.zero_stage


def _weight_bytes(recipe: TrainRecipe) -> int:
    """Bytes of a trainable parameter. PEFT makes adapters in float32 at least, which DeepSpeed undoes."""
    width = BYTES[recipe.model.dtype]
    return max(4, width) if recipe.model.lora is not None and not zero_stage(recipe) else width


def _optimizer_bytes(recipe: TrainRecipe) -> tuple[int, int]:
    """Bytes a trainable parameter of the optimizer's own copy of the weights, and of Adam's two moments."""
    wide = max(4, BYTES[recipe.model.dtype])
    # DeepSpeed's partitioned optimizers copy the weights even where these are float32 themselves.
    copied = _weight_bytes(recipe) < 4 or zero_stage(recipe) > 0
    return (wide if copied else 0), 2 * wide


def _states(recipe: TrainRecipe, shape: Shape, cluster: Cluster) -> tuple[list[Item], list[Item]]:
    """What stays from step to step: on one GPU, and on one node's CPU."""
    parallel = recipe.parallel
    width = _weight_bytes(recipe)
    trained, frozen = trainable_parameters(recipe, shape), frozen_bytes(recipe, shape)

    def share(total: float, since: int) -> tuple[int, str]:
        split = cluster.gpus if zero_stage(recipe) >= since else 1
        return -(-round(total) // split), f" / {split} GPUs" if split > 1 else ""

    parameters, over3 = share(trained * width + frozen, 3)
    weights = f"{trained:,} x {width}" + (f" + frozen base {frozen:,}" if frozen else "") + over3
    gradients, over2 = share(trained * width, 2)
    copy_width, moment_width = _optimizer_bytes(recipe)
    master, over1 = share(trained * copy_width, 1)
    moments, _ = share(trained * moment_width, 1)
    raised, _ = share(trained * copy_width, 1)
    many = cluster.ranks_of_node
    gpu, cpu = [], []
    if parallel.offload_parameters:
        cpu.append(Item("parameters", parameters * many, f"{weights} x {many} ranks"))
    else:
        gpu.append(Item("parameters", parameters, weights))
    states = [
        Item("optimizer's copy of the weights", master, f"{trained:,} x {copy_width}{over1}"),
        Item("Adam's moments", moments, f"{trained:,} x {moment_width}{over1}"),
    ]
    if parallel.offload_optimizer:
        states.append(Item("gradients for the optimizer", raised, f"{trained:,} x {copy_width}{over1}"))
        states.append(Item("gradients", gradients, f"{trained:,} x {width}{over2}"))
        cpu += [Item(item.name, item.bytes * many, f"{item.how} x {many} ranks") for item in states]
    elif copy_width and not zero_stage(recipe):
        # The plain engine sums the gradients of micro-batches in the optimizer's precision.
        gpu.append(Item("gradients", raised, f"{trained:,} x {copy_width}, summed over micro-batches"))
        gpu += states
        how = f"of one micro-batch, as they come: {trained:,} x {width}"
        gpu.append(Item("gradients to be added", gradients, how, "backward"))
    else:
        gpu.append(Item("gradients", gradients, f"{trained:,} x {width}{over2}"))
        gpu += states
        how = f"the rank's gradients as the optimizer takes them: {trained:,} x {copy_width}{over1}"
        gpu.append(Item("gradients for the optimizer", raised, how, "step"))
    return gpu, cpu


def _working(recipe: TrainRecipe, shape: Shape, cluster: Cluster) -> list[Item]:
    """What partitioning needs on top: whole layers, and gradients on their way."""
    stage = zero_stage(recipe)
    if not stage or cluster.gpus == 1:
        return []
    width = BYTES[recipe.model.dtype]
    trained = trainable_parameters(recipe, shape)
    items = [Item("reduce bucket", min(BUCKET, trained) * width, f"{min(BUCKET, trained):,} x {width}")]
    if stage == 3:
        largest = max(2 * shape.block_parameters, shape.embedding_parameters)
        how = f"the larger of two blocks and the embedding: {largest:,} x {width}"
        items.append(Item("gathered layers", largest * width, how, "pass"))
    if stage >= 2 and recipe.model.lora is None:
        largest = max(shape.block_parameters, shape.embedding_parameters)
        how = f"of the larger of a block and the embedding: {largest:,} x {width}"
        items.append(Item("gradients not yet reduced", largest * width, how, "backward"))
    return items


def _checkpoint_copy(recipe: TrainRecipe, shape: Shape, cluster: Cluster) -> Item:
    trained, many = trainable_parameters(recipe, shape), cluster.ranks_of_node
    wide = max(4, BYTES[recipe.model.dtype])
    size = -(-trained * 3 * wide * many // cluster.gpus)
    how = f"weights and moments, {trained:,} x {3 * wide} / {cluster.gpus} GPUs x {many} ranks"
    return Item("checkpoint being written", size, how)


# --- activations and logits --------------------------------------------------------------------------


def _adapters(recipe: TrainRecipe) -> Adapters | None:
    lora = recipe.model.lora
    if lora is None:
        return None
    return Adapters(adapted_layers(lora), lora.rank, _weight_bytes(recipe), lora.dropout > 0)


def _activations(recipe: TrainRecipe, shape: Shape, tokens: int) -> list[Item]:
    model, packed = recipe.model, recipe.batch.packing
    width = BYTES[model.dtype]
    varlen = uses_varlen(model, shape.head_dim)
    adapters = _adapters(recipe)
    frozen = adapters is not None
    block = block_activation_bytes(shape, width, varlen=varlen, packed=packed, frozen=frozen)
    many = 1 if model.gradient_checkpointing else shape.layers
    when: When = "backward" if model.gradient_checkpointing else "pass"
    over = f"{tokens:,} tokens x " + ("" if model.gradient_checkpointing else f"{many} blocks x ")
    items = []
    if model.gradient_checkpointing:
        inputs = shape.hidden * width
        how = f"{tokens:,} tokens x {shape.layers} blocks x {inputs} B"
        items.append(Item("inputs of the blocks", tokens * shape.layers * inputs, how, "pass"))
    name = "one block, recomputed" if model.gradient_checkpointing else "activations"
    items.append(Item(name, tokens * many * block, f"{over}{block} B", when))
    if adapters is not None:
        size, how = adapter_activation_bytes(shape, width, adapters, joined=packed and not varlen)
        items.append(Item("activations of the adapters", tokens * many * size, over + how, when))
        if model.lora is not None and model.lora.quantize_base == "nf4":
            largest = max(inputs * outputs for inputs, outputs in shape.linear.values())
            how = f"the largest of a block: {largest:,} x {width}"
            items.append(Item("one layer, dequantized", largest * width, how, "backward"))
    if model.attention == "sdpa":
        items.append(Item("attention mask", tokens * tokens, f"{tokens:,} x {tokens:,} tokens", "pass"))
    widest = gradient_bytes(shape, width, adapters, varlen=varlen)
    items.append(
        Item("gradients of activations", tokens * widest, f"{tokens:,} tokens x {widest} B", "backward")
    )
    # A frozen norm keeps its input and hands on the scaled one.
    ends = tokens * (shape.hidden * (4 + (1 if frozen else 2) * width) + 2 * shape.head_dim * width)
    items.append(Item("last norm, positions", ends, f"{tokens:,} tokens x {ends // tokens} B", "pass"))
    return items


def _head(
    recipe: TrainRecipe,
    shape: Shape,
    teacher: TeacherUse | None,
    *,
    cross_entropy: bool,
) -> list[Item]:
    width = BYTES[recipe.model.dtype]
    tokens = recipe.batch.capacity
    chunk = min(tokens, recipe.model.head_chunk or HEAD_CHUNK)
    wide = max(4, width)
    # Tensors of [chunk, vocabulary]: the logits and their gradient in the model's type, and what
    # kit.losses holds at its worst in float32: 3 for cross-entropy, 4 for a divergence, 5 for both.
    tensors = (3 if cross_entropy else 0) + (2 if cross_entropy else 4) * (teacher is not None)
    logits = chunk * shape.vocab * (2 * width + wide * tensors)
    hidden = shape.hidden * width
    how = f"{chunk:,} tokens x {shape.vocab:,} x (2 x {width} + {tensors} x {wide})"
    if teacher is not None:
        logits += chunk * teacher.shape.vocab * BYTES[teacher.dtype]
        hidden += teacher.shape.hidden * BYTES[teacher.dtype]
        how += f" + the teacher's x {BYTES[teacher.dtype]}"
    items = [
        Item("logits chunk", logits, how, "loss"),
        Item(
            "gradient of hidden states" if teacher is None else "teacher's hidden states, gradient of own",
            tokens * hidden,
            f"{tokens:,} tokens x {hidden} B",
            "pass",
        ),
    ]
    if recipe.model.lora is None:
        how = f"{shape.embedding_parameters:,} x {wide}, summed over chunks"
        items.append(Item("gradient of the head", shape.embedding_parameters * wide, how, "pass"))
    return items


def _teacher(teacher: TeacherUse, cluster: Cluster, tokens: int) -> list[Item]:
    shape, width = teacher.shape, BYTES[teacher.dtype]
    split = cluster.gpus if teacher.partitioned else 1
    over = f" / {split} GPUs" if split > 1 else ""
    items = [
        Item("teacher", -(-shape.parameters * width // split), f"{shape.parameters:,} x {width}{over}"),
    ]
    if split > 1:
        largest = max(2 * shape.block_parameters, shape.embedding_parameters)
        how = f"the larger of two blocks and the embedding: {largest:,} x {width}"
        items.append(Item("teacher's gathered layers", largest * width, how, "teacher"))
        head = shape.embedding_parameters
        items.append(Item("teacher's head, whole", head * width, f"{head:,} x {width}"))
    # A block without a backward pass: activated gate, up and product, or q, k, v and their rotation.
    inner = max(3 * shape.intermediate, 6 * shape.query) + 4 * shape.hidden
    moving = tokens * inner * width
    how = f"{tokens:,} tokens x {inner:,} x {width}, of one block"
    items.append(Item("teacher's activations", moving, how, "teacher"))
    return items
