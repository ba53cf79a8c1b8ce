"""Steps, tokens, FLOPs and hours of a run.

A forward pass costs 2 FLOPs a weight and token, a backward pass twice that (Kaplan et al. 2020), where the
embedding look-up costs nothing and the head, tied or not, costs its weights. Causal attention adds
2 * layers * heads * head size * l^2 for a sequence of length l in the forward pass (half of the full square),
and twice that backward. Norms, activations and positions are left out: below 1 % at the sizes that matter.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kit.training.estimate.memory import adapter_parameters
from kit.training.estimate.shape import Shape, shape_of
from kit.training.order import stream_length, total_steps
from kit.training.recipe import TableRecipe, TrainRecipe


@dataclass(frozen=True)
class Rows:
    """What the data holds, after rows over length are dropped or cut.

    Args:
        rows: how many.
        tokens: of all rows together, prompt and completion.
        squares: sum of squared row lengths, for attention.
        assumed: the numbers were given in the recipe, not read from data.
    """

    rows: int
    tokens: float
    squares: float
    assumed: bool = False

    @classmethod
    def from_lengths(cls, lengths: Iterable[int]) -> "Rows":
        """Of a token table."""
        known = list(lengths)
        return cls(len(known), sum(known), sum(length * length for length in known))

    @classmethod
    def assume(cls, rows: int, mean_tokens: float) -> "Rows":
        """Rows of equal length: attention's share is then a lower bound."""
        return cls(rows, rows * mean_tokens, rows * mean_tokens**2, assumed=True)


@dataclass(frozen=True)
class Work:
    """What is to be computed.

    Args:
        steps: optimizer updates.
        epoch_tokens: of one pass over the data.
        tokens: of the whole run.
        training: FLOPs of the model's forward and backward passes.
        recomputation: FLOPs of gradient checkpointing's second forward passes.
        teacher: FLOPs of an online teacher's forward passes.
        hours: at the assumed utilization.
    """

    steps: int
    epoch_tokens: float
    tokens: float
    training: float
    recomputation: float
    teacher: float
    hours: float

    @property
    def flops(self) -> float:
        """All of it."""
        return self.training + self.recomputation + self.teacher


def forward_flops(shape: Shape, tokens: float, squares: float, *, head: bool = True) -> float:
    """FLOPs of a forward pass.

    Args:
        tokens: in all.
        squares: sum of squared sequence lengths.
        head: with the logits of every token.
    """
    weights = shape.layers * shape.block_weights + (shape.embedding_parameters if head else 0)
    return 2.0 * weights * tokens + 2.0 * shape.layers * shape.query * squares


def training_flops(recipe: TrainRecipe, shape: Shape, tokens: float, squares: float) -> float:
    """FLOPs of forward and backward passes, without recomputation.

    With LoRA the frozen weights get no gradient, which saves a third; attention's backward pass stays.
    """
    forward = forward_flops(shape, tokens, squares)
    lora = recipe.model.lora
    if lora is None:
        return 3 * forward
    weights = forward_flops(shape, tokens, 0)
    return 3 * forward - weights + 6.0 * adapter_parameters(shape, lora) * tokens


def work(
    recipe: TableRecipe,
    shape: Shape,
    teacher: Shape | None,
    rows: Rows,
    *,
    gpus: int,
    tflops: float,
    mfu: float,
) -> Work:
    """Steps, tokens, FLOPs and hours.

    Hours count all FLOPs, recomputation and teacher included, at `mfu` of the peak of the GPUs that have
    work: a step of fewer sequences than GPUs leaves some idle.

    Args:
        teacher: an online one, None without.
        tflops: peak of one GPU.
        mfu: share of the peak that is reached.

    Raises:
        ValueError: no rows.
    """
    if rows.rows < 1 or rows.tokens <= 0:
        raise ValueError(
            f"the data has {rows.rows} rows and {rows.tokens:.0f} tokens, so nothing can be estimated: give "
            "assume.rows and assume.mean_tokens where it cannot be read here"
        )
    batch = recipe.batch
    steps = total_steps(rows.rows, batch.batch_size, batch.epochs, batch.max_steps)
    passes = min(stream_length(rows.rows, batch.epochs), steps * batch.batch_size) / rows.rows
    tokens, squares = rows.tokens * passes, rows.squares * passes
    training = training_flops(recipe, shape, tokens, squares)
    again = forward_flops(shape, tokens, squares, head=False) if recipe.model.gradient_checkpointing else 0.0
    taught = forward_flops(teacher, tokens, squares) if teacher is not None else 0.0
    busy = min(gpus, batch.batch_size)
    hours = (training + again + taught) / (busy * tflops * 1e12 * mfu) / 3600
    return Work(steps, rows.tokens, tokens, training, again, taught, hours)


def flops_per_token(folder: Path) -> float:
    """Of a model's forward and backward pass, without attention's squares; 0 for a family not known."""
    try:
        return 3 * forward_flops(shape_of(str(folder)), 1.0, 0.0)
    except ValueError:
        return 0.0
