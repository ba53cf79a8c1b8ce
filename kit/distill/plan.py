"""`--dry-run`: what a recipe would cost, without loading a model."""

from pathlib import Path

from rich.console import Console

from kit.data.readers import read
from kit.distill.recipe import DistillRecipe
from kit.training.chat import open_chat
from kit.training.estimate.plan import estimate, require_fit
from kit.training.estimate.render import render
from kit.training.estimate.shape import shape_of
from kit.training.estimate.work import Rows
from kit.training.model import load_tokenizer
from kit.training.tables import tokenize


def print_plan(recipe: DistillRecipe) -> None:
    """Print the estimate.

    Raises:
        ValueError: the run cannot fit, or a model's shape or the data's size is not known.
    """
    teacher = None
    if recipe.loss.alpha > 0 and recipe.teacher.source == "online":
        teacher = shape_of(recipe.teacher.path)
    made = estimate(recipe, shape_of(recipe.model.path), teacher, _rows(recipe))
    Console(soft_wrap=False).print(render(made))
    require_fit(made.memory, made.gpu_bytes, made.ways_out)


def _rows(recipe: DistillRecipe) -> Rows:
    """Lengths of the very rows that would be trained on, or the recipe's assumption without them."""
    assumed = recipe.assume
    if assumed.rows:
        if not assumed.mean_tokens:
            raise ValueError(f"assume.rows={assumed.rows} needs assume.mean_tokens beside it")
        mean = min(assumed.mean_tokens, float(recipe.batch.max_length))
        return Rows.assume(assumed.rows, mean)
    named = recipe.model.tokenizer or recipe.model.path
    if not Path(named).is_dir():
        raise ValueError(
            f"the rows' lengths are not known: {named} is not a folder here, so nothing can be tokenized. "
            "Download it, or give assume.rows and assume.mean_tokens"
        )
    chat = open_chat(load_tokenizer(Path(named)), named, recipe.data.instruction)
    section = recipe.data
    records = read(section.path, split=section.split, columns=section.columns, limit=section.limit)
    return Rows.from_lengths(len(row) for row in tokenize(records, chat, recipe).rows)
