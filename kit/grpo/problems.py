"""The prompts of a run: to train on, and held out."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kit.data.readers import Unreadable, read
from kit.data.records import Record
from kit.data.tasks import Asking, Task, Tasks, make_tasks
from kit.grpo.recipe import GrpoRecipe
from submission.engines.tokenizer import ChatTokenizer, context_length

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problems:
    """What a run samples.

    Args:
        train, held_out: prompts with their gold answers.
        counts: rows left out, by reason.
    """

    train: list[Task]
    held_out: list[Task]
    counts: dict[str, int]


def load_problems(recipe: GrpoRecipe, model: Path) -> Problems:
    """Read, tokenize and filter; every gold answer is parsed here, and a row without one is left out.

    Raises:
        ValueError: a set cannot be read, or too much of it (faults.max_dropped_share) cannot be used; the
            message names the commonest reasons with an example each.
    """
    section = recipe.data
    lost: list[Unreadable] = []
    records = list(
        read(section.path, split=section.split, columns=section.columns, limit=section.limit, unreadable=lost)
    )
    tokenizer = ChatTokenizer(model)
    found = _tasks(records, recipe, model, tokenizer)
    if lost:
        found.refused[_UNREAD] = len(lost)
        found.examples[_UNREAD] = f"{lost[0].place}: {lost[0].reason}"
    _check(f"data.path {section.path}", found, len(records) + len(lost), recipe)
    train, held_out = found.tasks, list[Task]()
    if section.validation:
        others = list(read(section.validation, columns=section.columns, limit=recipe.evaluation.rows))
        evaluated = _tasks(others, recipe, model, tokenizer)
        _check(f"data.validation {section.validation}", evaluated, len(others), recipe)
        held_out = evaluated.tasks
        known = {record.problem_id for record in records}
        if shared := sum(task.record.problem_id in known for task in held_out):
            log.warning("%d of %d validation problems are in the training data too", shared, len(held_out))
    elif section.validation_share:
        limit = int(section.validation_share * 16**12)
        held_out = [task for task in train if int(task.record.problem_id, 16) < limit]
        held_out = held_out[: recipe.evaluation.rows]
        train = [task for task in train if int(task.record.problem_id, 16) >= limit]
    chosen = [task for task in train if _difficult(task.record, recipe)]
    if not chosen:
        raise ValueError(
            f"data.path {section.path}: none of {len(train)} problems is left to train on between "
            f"data.min_pass_rate={section.min_pass_rate} and data.max_pass_rate={section.max_pass_rate}: "
            "widen them, or lower data.validation_share"
        )
    counts = {f"problems left out ({reason})": count for reason, count in found.refused.items()}
    if unfit := len(train) - len(chosen):
        counts["problems left out (pass rate)"] = unfit
    return Problems(chosen, held_out, counts)


_UNREAD = "row cannot be read"
_SHORT = "prompt leaves no room for rollout.max_completion_tokens"


def _tasks(records: Iterable[Record], recipe: GrpoRecipe, model: Path, tokenizer: ChatTokenizer) -> Tasks:
    """Without the sets' own worked answers, which nobody is trained on here, and without prompts that leave
    less than a whole completion: its limit would differ from the others'."""
    context = min(recipe.batch.max_length, context_length(model))
    if recipe.rollout.sampler == "vllm":
        context = min(context, recipe.rollout.engine.max_model_len)
    wanted = recipe.rollout.max_completion_tokens
    asking = Asking(recipe.data.system_prompt, recipe.data.user_prompt, wanted, context)
    alone = [record.model_copy(update={"completion": "", "completion_ids": ()}) for record in records]
    found = make_tasks(alone, asking, tokenizer)
    short = [task for task in found.tasks if task.max_tokens < wanted]
    if short:
        found.refused[_SHORT] = len(short)
        found.examples[_SHORT] = short[0].record.problem[:60]
        found.tasks = [task for task in found.tasks if task.max_tokens >= wanted]
    return found


def _difficult(record: Record, recipe: GrpoRecipe) -> bool:
    """Within the bounds on the recorded pass rate; one that nobody measured is."""
    rate = record.pass_rate
    return rate is None or recipe.data.min_pass_rate <= rate <= recipe.data.max_pass_rate


def _check(what: str, found: Tasks, rows: int, recipe: GrpoRecipe) -> None:
    told = "; ".join(
        f"{reason} ({count}, {found.examples[reason][:80]})" for reason, count in found.refused.most_common(3)
    )
    if not found.tasks:
        raise ValueError(f"{what} has no problem that can be used: {told or 'no rows'}")
    lost = sum(count for reason, count in found.refused.items() if reason != "problem given before")
    if lost > recipe.faults.max_dropped_share * rows:
        raise ValueError(
            f"{what}: {lost} of {rows} problems cannot be used, more than "
            f"faults.max_dropped_share={recipe.faults.max_dropped_share}: {told}; mend the set, or raise it"
        )
