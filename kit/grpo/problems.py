"""The prompts of a run: to train on, and held out."""

import logging
from collections import Counter
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
    """Read, filter and tokenize; every gold answer is parsed here, and a row without one is left out.

    Raises:
        ValueError: the set cannot be read, or too much of it (faults.max_dropped_share) cannot be used; the
            message names the commonest reason with an example.
    """
    section = recipe.data
    lost: list[Unreadable] = []
    records = list(
        read(section.path, split=section.split, columns=section.columns, limit=section.limit, unreadable=lost)
    )
    held_out: list[Record] = []
    if section.validation:
        held_out = list(read(section.validation, columns=section.columns, limit=recipe.evaluation.rows))
        known = {record.problem_id for record in records}
        if shared := sum(record.problem_id in known for record in held_out):
            log.warning("%d of %d validation problems are in the training data too", shared, len(held_out))
    elif section.validation_share:
        limit = int(section.validation_share * 16**12)
        held_out = [record for record in records if int(record.problem_id, 16) < limit]
        held_out = held_out[: recipe.evaluation.rows]
        records = [record for record in records if int(record.problem_id, 16) >= limit]
    chosen = [record for record in records if _difficult(record, recipe)]
    context = min(recipe.batch.max_length, context_length(model))
    if recipe.rollout.sampler == "vllm":
        context = min(context, recipe.rollout.engine.max_model_len)
    asking = Asking(section.system_prompt, section.user_prompt, recipe.rollout.max_completion_tokens, context)
    tokenizer = ChatTokenizer(model)
    train = _roomy(make_tasks(_alone(chosen), asking, tokenizer), recipe)
    evaluated = _roomy(make_tasks(_alone(held_out), asking, tokenizer), recipe)
    refused = train.refused + evaluated.refused
    refused["row cannot be read"] += len(lost)
    _check(recipe, train, refused, len(chosen) + len(held_out) + len(lost))
    counts = {f"problems left out ({reason})": count for reason, count in (+refused).items()}
    if unfit := len(records) - len(chosen):
        counts["problems left out (pass rate)"] = unfit
    return Problems(train.tasks, evaluated.tasks, counts)


def _alone(records: Iterable[Record]) -> list[Record]:
    """Without the sets' own worked answers, which nobody is trained on here."""
    return [record.model_copy(update={"completion": "", "completion_ids": ()}) for record in records]


def _difficult(record: Record, recipe: GrpoRecipe) -> bool:
    """Within the bounds on the recorded pass rate; one that nobody measured is."""
    rate = record.pass_rate
    return rate is None or recipe.data.min_pass_rate <= rate <= recipe.data.max_pass_rate


def _roomy(found: Tasks, recipe: GrpoRecipe) -> Tasks:
    """Without prompts that leave less than a whole completion: its limit would differ from the others'."""
    wanted = recipe.rollout.max_completion_tokens
    short = [task for task in found.tasks if task.max_tokens < wanted]
    if short:
        found.refused["prompt leaves no room for rollout.max_completion_tokens"] += len(short)
        found.examples.setdefault(
            "prompt leaves no room for rollout.max_completion_tokens", short[0].record.problem[:60]
        )
        found.tasks = [task for task in found.tasks if task.max_tokens >= wanted]
    return found


def _check(recipe: GrpoRecipe, train: Tasks, refused: "Counter[str]", rows: int) -> None:
    lost = sum(count for reason, count in refused.items() if reason != "problem given before")
    told = "; ".join(
        f"{reason} ({count}, {train.examples.get(reason, '')[:80]})"
        for reason, count in refused.most_common(3)
    )
    if not train.tasks:
        raise ValueError(f"data.path {recipe.data.path} has no problem to train on: {told or 'no rows'}")
    if rows and lost > recipe.faults.max_dropped_share * rows:
        raise ValueError(
            f"data.path {recipe.data.path}: {lost} of {rows} problems cannot be used, more than "
            f"faults.max_dropped_share={recipe.faults.max_dropped_share}: {told}; mend the set, or raise it"
        )
