"""The whole estimate of a distillation run, and the refusal of one that does not fit."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from kit.distill.recipe import DistillRecipe
from kit.training.estimate.memory import Cluster, Memory, TeacherUse, memory, trainable_parameters, zero_stage
from kit.training.estimate.shape import Shape
from kit.training.estimate.work import Rows, Work, work
from kit.training.recipe import AssumptionSection, TrainRecipe

R = TypeVar("R", bound=TrainRecipe)

Change = tuple[str, str, dict[str, Any]]
"""Kind of a change to a recipe, its words, and the fields by section."""

RESERVE = 0.08
"""Share of a GPU's memory left for the CUDA context, communication buffers and fragmentation."""
GPUS_PER_NODE = 8
DOMINANT = 3
"""Items that a refusal names."""
MOST_GPUS = 1024
SHORTEST = 2048
"""Tokens: no shorter micro-batch is proposed, and no more GPUs than the number above."""


@dataclass(frozen=True)
class Estimate:
    """What a run needs. Nothing in it is measured.

    Args:
        student: path or name, and parameters.
        teacher: the same of an online teacher, None without.
        trainable: parameters that the optimizer changes.
        memory: by item.
        gpu_bytes: of one GPU, as assumed.
        work: steps, tokens, FLOPs, hours.
        assumed: each assumption in one sentence.
        warnings: what is likely not meant.
        ways_out: what would make it fit, each with the memory it then needs; empty if it fits.
    """

    student: tuple[str, int]
    teacher: tuple[str, int] | None
    trainable: int
    memory: Memory
    gpu_bytes: int
    work: Work
    assumed: tuple[str, ...]
    warnings: tuple[str, ...]
    ways_out: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the worst moment stays within what may be planned with."""
        return self.memory.gpu_peak <= limit_of(self.gpu_bytes)


def limit_of(gpu_bytes: int) -> int:
    """Bytes of a GPU that may be planned with."""
    return int(gpu_bytes * (1 - RESERVE))


def estimate(
    recipe: DistillRecipe,
    shape: Shape,
    teacher: Shape | None,
    rows: Rows,
    *,
    gpus_per_node: int = GPUS_PER_NODE,
) -> Estimate:
    """Memory, work and assumptions of a recipe; loads nothing and starts nothing.

    Args:
        shape: of `recipe.model.path`.
        teacher: of `recipe.teacher.path`; used only where the recipe needs an online teacher.
        rows: of the training data.
        gpus_per_node: for CPU memory.

    Raises:
        ValueError: no rows, LoRA targets that the model does not have, or an online teacher without a shape.
    """
    use = _teacher_use(recipe, teacher)
    cluster = Cluster(recipe.assume.gpus, gpus_per_node)
    held = _memory(recipe, shape, cluster, use)
    done = work(
        recipe,
        shape,
        use.shape if use else None,
        rows,
        gpus=cluster.gpus,
        tflops=recipe.assume.gpu_tflops,
        mfu=recipe.assume.mfu,
    )
    gpu_bytes = int(recipe.assume.gpu_memory_gb * 1e9)
    ways: tuple[str, ...] = ()
    if held.gpu_peak > limit_of(gpu_bytes):

        def memory_of(changed: DistillRecipe, places: Cluster) -> Memory:
            return _memory(changed, shape, places, _teacher_use(changed, use.shape if use else None))

        changes = [*common_changes(recipe), *_own_changes(recipe)]
        ways = tuple(ways_out(recipe, changes, memory_of, cluster, limit_of(gpu_bytes)))
    return Estimate(
        student=(recipe.model.path, shape.parameters),
        teacher=(recipe.teacher.path, use.shape.parameters) if use else None,
        trainable=trainable_parameters(recipe, shape),
        memory=held,
        gpu_bytes=gpu_bytes,
        work=done,
        assumed=tuple(_assumptions(recipe, rows, gpus_per_node)),
        warnings=tuple(_warnings(recipe, shape)),
        ways_out=ways,
    )


def require_fit(held: Memory, gpu_bytes: int, ways_out: Iterable[str]) -> None:
    """Raise ValueError if a run does not fit: by how much, what dominates, and what would help."""
    peak, limit = held.gpu_peak, limit_of(gpu_bytes)
    if peak <= limit:
        return
    items = ", ".join(f"{item.name} {gigabytes(item.bytes)}" for item in held.worst[:DOMINANT])
    ways = "; ".join(ways_out) or "no single change would do; combine several or take larger GPUs"
    raise ValueError(
        f"an estimated {gigabytes(peak)} a GPU is needed, {gigabytes(peak - limit)} more than the "
        f"{gigabytes(limit)} of {gigabytes(gpu_bytes)} that are left after a reserve of {RESERVE:.0%}. "
        f"Largest: {items}. What would fit: {ways}"
    )


def gigabytes(count: float) -> str:
    """Bytes as 10^9."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e9:.2g} GB"


def _teacher_use(recipe: DistillRecipe, teacher: Shape | None) -> TeacherUse | None:
    if recipe.loss.alpha == 0 or recipe.teacher.source != "online":
        return None
    if teacher is None:
        raise ValueError(
            f"loss.alpha is {recipe.loss.alpha}, so the estimate needs the shape of the online teacher "
            f"{recipe.teacher.path}"
        )
    partitioned = recipe.teacher.partitioned and zero_stage(recipe) > 0
    return TeacherUse(teacher, recipe.teacher.dtype, partitioned)


def _memory(recipe: DistillRecipe, shape: Shape, cluster: Cluster, teacher: TeacherUse | None) -> Memory:
    return memory(recipe, shape, cluster, teacher, cross_entropy=recipe.loss.alpha < 1)


def ways_out(
    recipe: R,
    changes: Iterable[Change],
    memory_of: Callable[[R, Cluster], Memory],
    cluster: Cluster,
    limit: int,
) -> Iterator[str]:
    """Single changes that make it fit, each tried, with the memory that it then needs."""
    settled = None
    for name, words, fields in changes:
        changed = _changed(recipe, fields)
        if changed is None:
            continue
        held = memory_of(changed, cluster)
        if held.gpu_peak <= limit and name != settled:
            settled = name  # of several sizes of one change the first is enough
            yield f"{words} ({gigabytes(held.gpu_peak)})"
    if zero_stage(recipe):
        more = cluster.gpus * 2
        while more <= MOST_GPUS:
            held = memory_of(recipe, Cluster(more, cluster.gpus_per_node))
            if held.gpu_peak <= limit:
                yield f"{more} GPUs ({gigabytes(held.gpu_peak)})"
                return
            more *= 2


def common_changes(recipe: TrainRecipe) -> Iterator[Change]:
    """What any phase may try."""
    model, parallel, batch = recipe.model, recipe.parallel, recipe.batch
    zero3 = {"engine": "deepspeed", "zero_stage": 3}
    if zero_stage(recipe) < 3:
        yield "zero", "ZeRO 3 (parallel.engine = deepspeed, zero_stage = 3)", {"parallel": zero3}
    if not parallel.offload_optimizer:
        yield "optimizer", "ZeRO 3 with offload_optimizer", {"parallel": {**zero3, "offload_optimizer": True}}
    if not parallel.offload_parameters:
        both = {**zero3, "offload_optimizer": True, "offload_parameters": True}
        yield "parameters", "ZeRO 3 with offload_optimizer and offload_parameters", {"parallel": both}
    if not model.gradient_checkpointing:
        yield "checkpointing", "model.gradient_checkpointing", {"model": {"gradient_checkpointing": True}}
    shorter = batch.capacity // 2
    while shorter >= SHORTEST:
        sizes = {"max_length": min(batch.max_length, shorter), "micro_batch_tokens": shorter}
        words = f"micro-batches of {shorter:,} tokens (batch.max_length, batch.micro_batch_tokens)"
        yield "shorter", words, {"batch": sizes}
        shorter //= 2
    if model.lora is None:
        yield "lora", "LoRA (a section model.lora)", {"model": {"lora": {}}}


def _own_changes(recipe: DistillRecipe) -> Iterator[Change]:
    if recipe.loss.alpha > 0 and recipe.teacher.source == "online" and not recipe.loss.on_policy:
        yield "cached", "teacher.source = cached", {"teacher": {"source": "cached"}}


def _changed(recipe: R, fields: dict[str, Any]) -> R | None:
    """The recipe with some fields of its sections replaced, checked anew; None if they do not go together."""
    data = recipe.model_dump()
    for section, values in fields.items():
        data[section] = {**data[section], **values}
    try:
        return type(recipe).model_validate(data)
    except ValidationError:
        return None


def _assumptions(recipe: DistillRecipe, rows: Rows, gpus_per_node: int) -> Iterator[str]:
    yield "hours are those of training alone: no loading, evaluation, checkpoints or sampling"
    if rows.assumed:
        yield f"{rows.rows:,} rows of {rows.tokens / rows.rows:,.0f} tokens each (not read from data)"
    yield from common_assumptions(recipe, recipe.assume, gpus_per_node)


def common_assumptions(recipe: TrainRecipe, assume: AssumptionSection, gpus_per_node: int) -> Iterator[str]:
    """What every phase's estimate takes for granted."""
    yield f"{assume.gpus} GPUs of {assume.gpu_memory_gb:g} GB, {gpus_per_node} a node"
    yield f"{assume.gpu_tflops:g} TFLOP/s a GPU at best, of which {assume.mfu:.0%} are reached"
    yield f"every micro-batch full: {recipe.batch.capacity:,} tokens, all of them trained, prompts too"
    yield f"{RESERVE:.0%} of GPU memory kept for CUDA, communication and fragmentation"
    if recipe.model.attention == "auto":
        yield "no flash-attn: " + (
            "torch's own kernel for packed rows, GPUs from Ampere on"
            if recipe.model.dtype == "bfloat16"
            else "attention by sequence, which repeats k and v and so needs the most memory"
        )
    if zero_stage(recipe):
        yield "DeepSpeed's default reduce bucket of 5e8 elements; two blocks gathered at once (ZeRO 3)"


def _warnings(recipe: DistillRecipe, shape: Shape) -> Iterator[str]:
    gpus, batch = recipe.assume.gpus, recipe.batch.batch_size
    if batch < gpus:
        yield (
            f"batch.batch_size is {batch} for {gpus} GPUs: {gpus - batch} of them get no sequence in a step, "
            f"and the hours count on {batch}"
        )
    if recipe.model.lora is not None and shape.tied and recipe.model.lora.quantize_base == "nf4":
        yield "the tied embedding stays unquantized under nf4"
    if recipe.loss.on_policy:
        yield (
            f"{recipe.loss.on_policy:.0%} of the steps sample their completions first: neither the time nor "
            "the memory of sampling is in this estimate"
        )
    if recipe.model.dtype != "bfloat16":
        yield f"hours go by assume.gpu_tflops, a bfloat16 peak, but model.dtype is {recipe.model.dtype}"
