"""What all phases of training do alike: join the ranks, check model and tokenizer, export what came out."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kit.training.card import carried_card
from kit.training.chat import Chat
from kit.training.export import export
from kit.training.model import check_vocabulary, find_model, load_tokenizer
from kit.training.ranks import Ranks, join, leave
from kit.training.recipe import TrainRecipe
from kit.training.signals import StopRequest
from kit.training.start import Started, check_start
from kit.training.trackers import check_trackers

MODEL = "model"
"""Folder under `out` that the trained model is exported to."""


@contextmanager
def joined(recipe: TrainRecipe) -> Iterator[tuple[Ranks, StopRequest]]:
    """The ranks of a run, and the request that may stop it; both end with the block.

    Raises:
        ValueError: the recipe asks for what no engine or tracker has; before any rank waits for another.
    """
    check_start(recipe)
    check_trackers(recipe.logging.trackers)
    ranks = join(recipe.parallel.timeout)
    try:
        with StopRequest() as stop:
            yield ranks, stop
    finally:
        leave()


def find_tokenizer(recipe: TrainRecipe, folder: Path, config: Any) -> tuple[Path, Any]:
    """The tokenizer that the recipe names, else the model's own, and its folder.

    Args:
        folder, config: of the model.

    Raises:
        ValueError: there is none, or the model has no row for one of its tokens.
    """
    named = Path(recipe.model.tokenizer or folder).expanduser()
    if not named.is_dir():
        named = find_model(recipe.model.tokenizer, "model.tokenizer")
    tokenizer = load_tokenizer(named)
    check_vocabulary(tokenizer, config, f"model {recipe.model.path}")
    return named, tokenizer


def check_positions(recipe: TrainRecipe, config: Any, place: str) -> None:
    """Refuse rows that are longer than a model's context.

    Raises:
        ValueError: naming both lengths, and the model by its `place`.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if limit and recipe.batch.max_length > limit:
        raise ValueError(
            f"batch.max_length={recipe.batch.max_length} is over the {limit} positions of {place}: lower it, "
            "or take a model with a longer context"
        )


def export_trained(
    recipe: TrainRecipe, started: Started, chat: Chat, base: Path, phase: str, ranks: Ranks
) -> None:
    """Export the trained causal LM to `out`/model, with a card that names `base` and `phase`. Collective."""
    card = partial(carried_card, base, phase)
    export(started.engine, started.model, started.adapted, chat, recipe.out / MODEL, ranks, card)
