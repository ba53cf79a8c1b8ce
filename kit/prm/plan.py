"""`--dry-run`: what a PRM recipe would cost, without loading a model."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from kit.prm.data import check_losses, encode, form_of, split
from kit.prm.recipe import PrmRecipe
from kit.training.estimate.memory import BYTES, Cluster, Item, Memory, memory, zero_stage
from kit.training.estimate.plan import (
    GPUS_PER_NODE,
    common_assumptions,
    common_changes,
    limit_of,
    require_fit,
    ways_out,
)
from kit.training.estimate.render import whole
from kit.training.estimate.shape import Shape, shape_of
from kit.training.estimate.work import Rows, Work, work
from kit.training.model import load_tokenizer
from submission.engines.base import EngineError
from submission.prm.encoding import StepEncoder


def print_plan(recipe: PrmRecipe) -> None:
    """Print the estimate.

    Raises:
        ValueError: the run cannot fit, or the model's shape or the data's size is not known.
    """
    shape = shape_of(recipe.model.path)
    cluster = Cluster(recipe.assume.gpus, GPUS_PER_NODE)
    rows = _rows(recipe)
    held = scorer_memory(recipe, shape, cluster)
    assume = recipe.assume
    done = work(recipe, shape, None, rows, gpus=assume.gpus, tflops=assume.gpu_tflops, mfu=assume.mfu)
    gpu_bytes = int(assume.gpu_memory_gb * 1e9)
    page = whole(held, gpu_bytes, _work_rows(recipe, shape, rows, done), _assumptions(recipe, rows), ())
    Console(soft_wrap=False).print(page)
    ways = ways_out(
        recipe,
        common_changes(recipe),
        lambda changed, places: scorer_memory(changed, shape, places),
        cluster,
        limit_of(gpu_bytes),
    )
    require_fit(held, gpu_bytes, ways)


def scorer_memory(recipe: PrmRecipe, shape: Shape, cluster: Cluster) -> Memory:
    """Of a training rank. A classifier has no logits over the vocabulary, and no gradient of a head for them;
    its own layer is counted in full, at most hidden^2 parameters.
    """
    made = memory(recipe, shape, cluster)
    if recipe.head.kind == "logprob":
        return made
    gone = ("logits chunk", "gradient of the head")
    gpu = [item for item in made.gpu if item.name not in gone]
    width = shape.hidden + 1 if recipe.head.kind == "process_reward" else 0
    layer = shape.hidden * width + (shape.hidden + 1) * recipe.head.labels
    wide = max(4, BYTES[recipe.model.dtype])
    split = cluster.gpus if zero_stage(recipe) == 3 else 1
    size = -(-layer * (2 * BYTES[recipe.model.dtype] + 3 * wide) // split)
    gpu.append(Item("classifier, its gradient and optimizer", size, f"{layer:,} parameters"))
    return Memory(tuple(gpu), made.cpu)


def _rows(recipe: PrmRecipe) -> Rows:
    """Lengths of the very rows that would be trained on, or the recipe's assumption without them."""
    assumed = recipe.assume
    if assumed.rows:
        if not assumed.mean_tokens:
            raise ValueError(f"assume.rows={assumed.rows} needs assume.mean_tokens beside it")
        return Rows.assume(assumed.rows, min(assumed.mean_tokens, float(recipe.batch.max_length)))
    named = recipe.model.tokenizer or recipe.model.path
    if not Path(named).is_dir():
        raise ValueError(
            f"the rows' lengths are not known: {named} is not a folder here, so nothing can be tokenized. "
            "Download it, or give assume.rows and assume.mean_tokens"
        )
    try:
        encoder = StepEncoder(Path(named), form_of(load_tokenizer(Path(named)), recipe.head))
    except EngineError as error:
        raise ValueError(str(error)) from None
    records, _, unreadable = split(recipe)
    found = encode(records, encoder, recipe)
    check_losses(found, unreadable, recipe.faults.max_dropped_share)
    return Rows.from_lengths(len(row) for row in found.rows)


def _work_rows(recipe: PrmRecipe, shape: Shape, rows: Rows, done: Work) -> list[tuple[str, str]]:
    return [
        (f"model {recipe.model.path}", f"{shape.parameters:,} parameters"),
        ("head", recipe.head.kind),
        ("rows", f"{rows.rows:,}"),
        ("optimizer steps", f"{done.steps:,}"),
        ("tokens an epoch", f"{done.epoch_tokens:,.0f}"),
        ("tokens in all", f"{done.tokens:,.0f}"),
        ("training", f"{done.training:.3g} FLOPs"),
        ("recomputation", f"{done.recomputation:.3g} FLOPs"),
        ("hours at the assumed utilization", f"{done.hours:,.2f}"),
    ]


def _assumptions(recipe: PrmRecipe, rows: Rows) -> Iterator[str]:
    yield "hours are those of training alone: no loading, evaluation or checkpoints"
    if recipe.head.kind != "logprob":
        yield "FLOPs are counted with a language model's head, which a classifier does not have"
    if rows.assumed:
        yield f"{rows.rows:,} rows of {rows.tokens / rows.rows:,.0f} tokens each (not read from data)"
    yield from common_assumptions(recipe, recipe.assume, GPUS_PER_NODE)
