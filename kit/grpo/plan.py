"""`--dry-run` of GRPO: memory a GPU, steps, tokens and hours, without loading a model."""

from collections.abc import Iterator

from rich.console import Console

from kit.grpo.recipe import GrpoRecipe
from kit.training.estimate.memory import BYTES, Cluster, Item, Memory, TeacherUse, memory, zero_stage
from kit.training.estimate.plan import (
    GPUS_PER_NODE,
    common_assumptions,
    common_changes,
    gigabytes,
    limit_of,
    require_fit,
    ways_out,
)
from kit.training.estimate.render import whole
from kit.training.estimate.shape import Shape, shape_of
from kit.training.estimate.work import forward_flops, training_flops


def print_plan(recipe: GrpoRecipe) -> None:
    """Print the estimate.

    Raises:
        ValueError: the run cannot fit, or the model's shape is not known.
    """
    shape = shape_of(recipe.model.path)
    cluster = Cluster(recipe.assume.gpus, GPUS_PER_NODE)
    held = training_memory(recipe, shape, cluster)
    gpu_bytes = int(recipe.assume.gpu_memory_gb * 1e9)
    page = whole(
        held, gpu_bytes, work_of(recipe, shape), _assumptions(recipe), _warnings(recipe, shape, gpu_bytes)
    )
    Console(soft_wrap=False).print(page)
    changes = common_changes(recipe)
    ways = ways_out(
        recipe,
        changes,
        lambda changed, places: training_memory(changed, shape, places),
        cluster,
        limit_of(gpu_bytes),
    )
    require_fit(held, gpu_bytes, ways)


def training_memory(recipe: GrpoRecipe, shape: Shape, cluster: Cluster) -> Memory:
    """Of a training rank. The sampler sleeps meanwhile, or runs elsewhere: see the warnings.

    A reference model is a second, frozen one with its own forward pass; with LoRA it is the base itself.
    """
    reference = None
    if recipe.policy.kl_coef and recipe.model.lora is None:
        reference = TeacherUse(shape, recipe.model.dtype, zero_stage(recipe) == 3)
    made = memory(recipe, shape, cluster, reference)
    if reference is None:
        return made
    gpu = (_renamed(item) for item in made.gpu)
    return Memory(tuple(gpu), tuple(_renamed(item) for item in made.cpu))


def _renamed(item: Item) -> Item:
    return Item(item.name.replace("teacher", "reference"), item.bytes, item.how, item.when)


def work_of(recipe: GrpoRecipe, shape: Shape) -> list[tuple[str, str]]:
    """Quantities and values."""
    batch, assume = recipe.batch, recipe.assume
    mean = assume.mean_tokens or recipe.rollout.max_completion_tokens / 2
    completions = batch.num_episodes * batch.batch_size * batch.group_size
    tokens = completions * mean
    squares = completions * mean**2
    training = batch.epochs * training_flops(recipe, shape, tokens, squares)
    if recipe.model.gradient_checkpointing:
        training += batch.epochs * forward_flops(shape, tokens, squares, head=False)
    looks = int(recipe.rescored) + int(recipe.policy.kl_coef > 0)
    scoring = looks * forward_flops(shape, tokens, squares)
    hours = (training + scoring) / (assume.gpus * assume.gpu_tflops * 1e12 * assume.mfu) / 3600
    rows = [
        (f"model {recipe.model.path}", f"{shape.parameters:,} parameters"),
        ("batches of roll-outs", f"{batch.num_episodes:,}"),
        ("optimizer steps", f"{batch.num_episodes * recipe.optimizer_steps:,}"),
        ("completions", f"{completions:,}"),
        ("tokens sampled at least", f"{tokens:,.0f}"),
        ("training", f"{training:.3g} FLOPs"),
    ]
    if looks:
        rows.append(("log-probabilities before the update", f"{scoring:.3g} FLOPs"))
    rows.append(("hours of training at the assumed utilization", f"{hours:,.2f}"))
    if assume.sampling_tokens_per_second:
        sampling = tokens / assume.sampling_tokens_per_second / 3600
        together = max(hours, sampling) if recipe.rollout.overlap else hours + sampling
        rows += [
            ("hours of sampling at the assumed speed", f"{sampling:,.2f}"),
            ("hours together", f"{together:,.2f}"),
        ]
    return rows


def _assumptions(recipe: GrpoRecipe) -> Iterator[str]:
    assume = recipe.assume
    if assume.mean_tokens:
        yield f"prompt and completion have {assume.mean_tokens:,.0f} tokens together in the mean"
    else:
        yield "prompt and completion have half of max_completion_tokens in the mean (assume.mean_tokens)"
    if assume.sampling_tokens_per_second:
        yield f"{assume.sampling_tokens_per_second:,.0f} tokens a second sampled by all engines together"
    else:
        yield "the time of sampling is left out: give assume.sampling_tokens_per_second"
    yield "no group is replaced (dynamic sampling draws more), and every completion moves the weights"
    yield from common_assumptions(recipe, assume, GPUS_PER_NODE)


def _warnings(recipe: GrpoRecipe, shape: Shape, gpu_bytes: int) -> Iterator[str]:
    if recipe.rollout.sampler == "vllm":
        engine = recipe.rollout.engine
        width = BYTES["float32" if engine.dtype == "float32" else "bfloat16"]
        share = shape.parameters * width / engine.tensor_parallel_size
        room = engine.gpu_memory_utilization * gpu_bytes - share
        yield (
            f"while it samples, the engine takes {engine.gpu_memory_utilization:.0%} of each of the "
            f"{engine.tensor_parallel_size} GPUs that it shares with the trainer: {gigabytes(share)} of "
            f"weights and {gigabytes(max(room, 0.0))} of key-value cache; what the trainer holds always must "
            "fit beside it (rollout.engine.gpu_memory_utilization)"
        )
        if room <= 0:
            yield "that leaves no key-value cache: raise rollout.engine.tensor_parallel_size"
    completions = recipe.batch.batch_size * recipe.batch.group_size / recipe.batch.minibatches
    if completions < recipe.assume.gpus:
        yield f"an optimizer step has {completions:.0f} completions for {recipe.assume.gpus} GPUs"
    if recipe.model.dtype != "bfloat16":
        yield f"hours go by assume.gpu_tflops, a bfloat16 peak, but model.dtype is {recipe.model.dtype}"
