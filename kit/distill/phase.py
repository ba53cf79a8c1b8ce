"""Phase 1 as a whole: check, prepare, train, export.

    from kit.distill.phase import distill
    distill(DistillRecipe.load(Path("kit/recipes/distill_cpu.toml")))

Everything cheap is checked before any model is loaded, and what one rank finds wrong all ranks raise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from kit.distill.data import Data, make_tables, open_tables
from kit.distill.objective import CachedTeacher, DistillObjective, OnlineTeacher, Teacher
from kit.distill.on_policy import MixedRows
from kit.distill.recipe import DistillRecipe
from kit.distill.vocabulary import check_same_tokens
from kit.training.chat import Chat, open_chat
from kit.training.checkpoints import refuse_another_run
from kit.training.estimate.work import flops_per_token
from kit.training.loop import CHECKPOINTS, Job, Outcome, flat, revision_of, run
from kit.training.model import (
    check_architecture,
    find_model,
    load_causal,
    load_config,
    load_tokenizer,
    token_count,
)
from kit.training.phase import check_positions, export_trained, find_tokenizer, joined
from kit.training.ranks import Ranks
from kit.training.start import Started, freeze, partitioned, start, uses_deepspeed
from kit.training.table_steps import TableSteps
from kit.training.tables import tokenizer_digest

FREE = ("out", "logging", "checkpoint", "parallel", "faults", "assume")
"""Sections that do not change what is learnt: a run may be resumed with others."""


@dataclass(frozen=True)
class Checked:
    """What the cheap checks found.

    Args:
        chat, teacher_chat: tokenizers with their templates.
        vocabulary: number of tokens that student and teacher share; None without a teacher of logits.
    """

    folder: Path
    chat: Chat
    teacher_folder: Path | None
    teacher_chat: Chat | None
    vocabulary: int | None


def distill(recipe: DistillRecipe) -> Outcome:
    """Train as the recipe says, from the last checkpoint if there is one; export the model to `out`/model.

    Raises:
        ValueError: something is wrong with the recipe, the models or the data; raised by all ranks.
    """
    with joined(recipe) as (ranks, stop):
        checked = ranks.together(lambda: check(recipe))
        made = ranks.together(
            lambda: make_tables(recipe, checked.chat, checked.teacher_chat) if ranks.main else ""
        )
        data = open_tables(recipe, ranks.share(made))
        who = identity(recipe, data, checked)
        ranks.together(lambda: refuse_another_run(recipe.out / CHECKPOINTS, who))
        started = ranks.together(lambda: start(recipe, checked.folder, ranks))
        teacher = ranks.together(lambda: _teacher(recipe, checked, data, ranks))
        objective = DistillObjective(recipe.loss, teacher, checked.vocabulary)
        outcome = run(_job(recipe, checked, data, started, objective, ranks), stop)
        if outcome.finished:
            export_trained(recipe, started, checked.chat, checked.folder, "distill", ranks)
        return outcome


def check(recipe: DistillRecipe) -> Checked:
    """Everything about models, tokenizers and templates that can be wrong, without loading a weight.

    Raises:
        ValueError: naming what is wrong, where, and the way out.
    """
    folder = find_model(recipe.model.path, "model.path")
    config = load_config(folder)
    _, tokenizer = find_tokenizer(recipe, folder, config)
    check_architecture(config)
    check_positions(recipe, config, recipe.model.path)
    chat = open_chat(tokenizer, recipe.model.path, recipe.data.instruction)
    if recipe.loss.alpha == 0 or recipe.teacher.source == "cached":
        vocabulary = None if recipe.loss.alpha == 0 else token_count(tokenizer)
        return Checked(folder, chat, None, None, vocabulary)
    if recipe.teacher.partitioned and not uses_deepspeed(recipe):
        raise ValueError(
            "teacher.partitioned needs parallel.engine = 'deepspeed' and a zero_stage above 0; with plain "
            "torch set teacher.partitioned=false: every rank then holds the whole teacher"
        )
    teacher_folder = find_model(recipe.teacher.path, "teacher.path")
    teacher_config, theirs = load_config(teacher_folder), load_tokenizer(teacher_folder)
    check_architecture(teacher_config)
    check_positions(recipe, teacher_config, recipe.teacher.path)
    vocabulary = check_same_tokens(tokenizer, theirs, recipe.model.path, recipe.teacher.path)
    for place, shape in ((recipe.model.path, config), (recipe.teacher.path, teacher_config)):
        if shape.vocab_size < vocabulary:
            raise ValueError(
                f"{place} has {shape.vocab_size} rows for a common vocabulary of {vocabulary} tokens: "
                "resize it, or train on the teacher's traces alone (loss.alpha=0)"
            )
    return Checked(
        folder,
        chat,
        teacher_folder,
        open_chat(theirs, recipe.teacher.path, recipe.data.instruction),
        vocabulary,
    )


def _teacher(recipe: DistillRecipe, checked: Checked, data: Data, ranks: Ranks) -> Teacher | None:
    if recipe.loss.alpha == 0:
        return None
    if recipe.teacher.source == "cached":
        folder = Path(recipe.data.path).parent
        return CachedTeacher(folder, data.places, recipe.loss.temperature)
    assert checked.teacher_folder is not None and checked.teacher_chat is not None
    section = recipe.model.model_copy(update={"dtype": recipe.teacher.dtype})
    partition = recipe.teacher.partitioned
    if partition:
        with partitioned(recipe, recipe.teacher.dtype, always=True):
            model = load_causal(checked.teacher_folder, section)
            head = _whole_head(model)
            module = freeze(model, section, recipe, ranks, partition=True)
    else:
        model = load_causal(checked.teacher_folder, section)
        module = freeze(model, section, recipe, ranks, partition=False)
        head = model.get_output_embeddings().weight
    ends = (checked.chat.end_id, checked.teacher_chat.end_id)
    return OnlineTeacher(module, head.to(ranks.device), data.prompts, ends, packing=recipe.batch.packing)


def _whole_head(model: Any) -> Any:
    """A copy of the partitioned head's weight: one gather for the whole run."""
    import deepspeed

    weight = model.get_output_embeddings().weight
    with deepspeed.zero.GatheredParameters([weight]):
        return weight.detach().clone()


def _job(
    recipe: DistillRecipe,
    checked: Checked,
    data: Data,
    started: Started,
    objective: DistillObjective,
    ranks: Ranks,
) -> Job:
    return Job(
        recipe=recipe,
        ranks=ranks,
        engine=started.engine,
        steps=TableSteps(
            engine=started.engine,
            objective=objective,
            batch=recipe.batch,
            ranks=ranks,
            row_count=len(data.train),
            rows_of=MixedRows(
                data.train,
                recipe.loss,
                started.engine.module,
                checked.chat.end_id,
                token_count(checked.chat.tokenizer),
                recipe.batch.max_length,
                recipe.seed,
                ranks,
            ),
            validation=data.validation,
        ),
        identity=identity(recipe, data, checked),
        flops_per_token=flops_per_token(checked.folder),
        counts=data.counts,
        revision=revision_of(Path(__file__).parent),
    )


def identity(recipe: DistillRecipe, data: Data, checked: Checked) -> dict[str, JsonValue]:
    """What a checkpoint must have in common with a run that goes on from it."""
    settings = recipe.model_dump(mode="json", exclude=set(FREE))
    return {
        **flat(settings),
        "phase": "distill",
        "tables": data.key,
        "tokenizer": tokenizer_digest(checked.chat.tokenizer),
    }
