"""The problems of a trace run."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from kit.data.records import Record
from kit.data.refused import Refused
from kit.data.tasks import Asking, Tasks, make_tasks
from kit.traces.recipe import TraceRecipe
from submission.engines.base import EngineError
from submission.engines.tokenizer import ChatTokenizer, context_length

R = TypeVar("R", bound=Refused)


def load_tasks(recipe: TraceRecipe) -> Tasks:
    """Read, check and tokenize the problems.

    Raises:
        ValueError: the set cannot be read, or none of its rows can be used.
    """
    found = load_rows(recipe, lambda records, tokenizer: make_tasks(records, asking_of(recipe), tokenizer))
    if not found.tasks:
        raise found.nothing_left(recipe.dataset, "problem to sample")
    return found


def load_rows(recipe: TraceRecipe, make: Callable[[Iterator[Record], ChatTokenizer], R]) -> R:
    """What `make` finds in the recipe's rows, with those that cannot be read among the refused.

    Raises:
        ValueError: the set or the teacher's tokenizer cannot be read.
    """
    from kit.data.readers import Unreadable, read

    unreadable: list[Unreadable] = []
    records = read(
        recipe.dataset,
        split=recipe.split,
        columns=recipe.columns,
        limit=recipe.limit,
        unreadable=unreadable,
    )
    try:
        tokenizer = ChatTokenizer(recipe.teacher)
    except EngineError as error:
        raise ValueError(str(error)) from None
    found = make(records, tokenizer)
    found.refuse_unreadable(unreadable)
    return found


def asking_of(recipe: TraceRecipe) -> Asking:
    """How the recipe's teacher is asked."""
    context = min(recipe.engine.max_model_len, context_length(recipe.teacher))
    return Asking(recipe.system_prompt, recipe.user_prompt, recipe.max_tokens, context)
