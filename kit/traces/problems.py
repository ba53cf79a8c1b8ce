"""The problems of a trace run."""

from kit.data.tasks import Asking, Tasks, make_tasks
from kit.traces.recipe import TraceRecipe
from submission.engines.base import EngineError
from submission.engines.tokenizer import ChatTokenizer, context_length


def load_tasks(recipe: TraceRecipe) -> Tasks:
    """Read, check and tokenize the problems.

    Raises:
        ValueError: the set cannot be read, or none of its rows can be used.
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
    found = make_tasks(records, asking_of(recipe), tokenizer)
    for row in unreadable:
        found.refused["row cannot be read"] += 1
        found.examples.setdefault("row cannot be read", f"{row.place}: {row.reason}")
    if not found.tasks:
        reasons = "; ".join(
            f"{reason} ({count}, {found.examples[reason]})" for reason, count in found.refused.items()
        )
        raise ValueError(f"{recipe.dataset} has no problem to sample: {reasons or 'it has no rows'}")
    return found


def asking_of(recipe: TraceRecipe) -> Asking:
    """How the recipe's teacher is asked."""
    context = min(recipe.engine.max_model_len, context_length(recipe.teacher))
    return Asking(recipe.system_prompt, recipe.user_prompt, recipe.max_tokens, context)
