"""Phase 2 as a whole: check, prepare, train, export.

    from kit.grpo.phase import grpo
    grpo(GrpoRecipe.load(Path("kit/recipes/grpo_cpu.toml")))

Everything cheap is checked before any model is loaded, own reward functions included; what one rank finds
wrong all ranks raise. With `rollout.sampler = "vllm"` or "served" rank 0 runs the engine, or speaks to the
servers, and has the rewards; the other ranks read its tables: `parallel.timeout` must be longer than the
sampling of a step.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from kit.grpo.collect import Collector
from kit.grpo.objective import PolicyObjective
from kit.grpo.problems import Problems, load_problems
from kit.grpo.recipe import GrpoRecipe
from kit.grpo.reference import Reference, resumable
from kit.grpo.rollout import Sampler
from kit.grpo.steps import GrpoSteps
from kit.rewards.judge import Judge
from kit.rewards.prm import StepScorer
from kit.training.chat import Chat, open_chat
from kit.training.checkpoints import refuse_another_run
from kit.training.estimate.work import flops_per_token
from kit.training.export import export, whole_weights
from kit.training.loop import CHECKPOINTS, Job, Outcome, flat, revision_of, run
from kit.training.model import (
    check_architecture,
    check_vocabulary,
    find_model,
    load_causal,
    load_config,
    load_tokenizer,
    token_count,
)
from kit.training.phase import check_positions, export_trained, joined
from kit.training.ranks import Ranks
from kit.training.start import Started, freeze, partitioned, start, uses_deepspeed
from kit.training.tables import data_digest, tokenizer_digest
from submission.engines.base import EngineError

FREE: dict[str, bool | set[str]] = {
    **dict.fromkeys(("out", "logging", "checkpoint", "parallel", "faults", "assume", "evaluation"), True),
    "rollout": {
        "max_failed_share",
        "sync_timeout",
        "sleep",
        "servers",
        "secret_file",
        "transfer",
        "transfer_folder",
    },
}
"""Settings that do not change what is learnt: a run may be resumed with others."""


@dataclass(frozen=True)
class Checked:
    """What the cheap checks found."""

    folder: Path
    chat: Chat
    problems: Problems


def grpo(recipe: GrpoRecipe) -> Outcome:
    """Train as the recipe says, from the last checkpoint if there is one; export the model to `out`/model.

    Raises:
        ValueError: something is wrong with the recipe, the model, the data or a reward; raised by all ranks.
    """
    with joined(recipe) as (ranks, stop), contextlib.ExitStack() as stack:
        checked = ranks.together(lambda: check(recipe))
        who = identity(recipe, checked)
        ranks.together(lambda: refuse_another_run(recipe.out / CHECKPOINTS, who))
        ranks.together(lambda: _check_servers(recipe, checked) if ranks.main else None)
        judge = ranks.together(lambda: _judge(recipe, stack) if ranks.main else None)
        started = ranks.together(lambda: start(recipe, checked.folder, ranks))
        steps = _steps(recipe, checked, started, judge, who, ranks, stack)
        job = Job(
            recipe=recipe,
            ranks=ranks,
            engine=started.engine,
            steps=steps,
            identity=who,
            flops_per_token=flops_per_token(checked.folder),
            counts=checked.problems.counts,
            revision=revision_of(Path(__file__).parent),
        )
        outcome = run(job, stop)
        if steps.reference is not None:
            ranks.together(steps.reference.tidy)
        if outcome.finished:
            export_trained(recipe, started, checked.chat, checked.folder, "grpo", ranks)
        return outcome


def check(recipe: GrpoRecipe) -> Checked:
    """Everything about model, tokenizer, template and data that can be wrong, without loading a weight.

    Raises:
        ValueError: naming what is wrong, where, and the way out.
    """
    folder = find_model(recipe.model.path, "model.path")
    config = load_config(folder)
    if recipe.model.tokenizer:
        raise ValueError(
            "model.tokenizer is not for GRPO: the engine that samples reads the tokenizer in model.path; put "
            "it there"
        )
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, config, f"model {recipe.model.path}")
    check_architecture(config)
    check_positions(recipe, config, recipe.model.path)
    chat = open_chat(tokenizer, recipe.model.path)
    try:
        return Checked(folder, chat, load_problems(recipe, folder))
    except EngineError as error:
        raise ValueError(str(error)) from error


def _check_servers(recipe: GrpoRecipe, checked: Checked) -> None:
    """Before any weight is loaded: whether each of `rollout.servers` is there and serves this model."""
    rollout = recipe.rollout
    if rollout.sampler != "served":
        return
    from kit.grpo.samplers.served import check_servers, greeting
    from kit.grpo.samplers.wire import read_secret

    hello = greeting(checked.folder, recipe.batch.max_length, rollout.engine.dtype, rollout.tools)
    try:
        check_servers(rollout.servers, read_secret(rollout.secret_file), hello)
    except EngineError as error:
        raise ValueError(f"rollout.servers: {error}") from error


def identity(recipe: GrpoRecipe, checked: Checked) -> dict[str, JsonValue]:
    """What a checkpoint must have in common with a run that goes on from it."""
    return {
        **flat(recipe.model_dump(mode="json", exclude=FREE)),
        "phase": "grpo",
        "data.content": data_digest(recipe.data.path),
        "tokenizer": tokenizer_digest(checked.chat.tokenizer),
    }


def _judge(recipe: GrpoRecipe, stack: contextlib.ExitStack) -> Judge:
    scorer = _step_scorer(recipe.prm) if recipe.prm else None
    return stack.enter_context(Judge(recipe.rewards, recipe.rollout.max_completion_tokens, scorer))


def _step_scorer(folder: str) -> StepScorer:
    from submission.prm.heads import check_prm
    from submission.prm.transformers_scorer import TransformersScorer

    path = find_model(folder, "prm")
    check_prm(path)
    scorer = TransformersScorer(path)
    try:
        asyncio.run(scorer.start())
    except EngineError as error:
        raise ValueError(str(error)) from error
    return scorer.step_scores


def _steps(
    recipe: GrpoRecipe,
    checked: Checked,
    started: Started,
    judge: Judge | None,
    who: dict[str, JsonValue],
    ranks: Ranks,
    stack: contextlib.ExitStack,
) -> GrpoSteps:
    vocabulary = token_count(checked.chat.tokenizer)
    collector = None
    if recipe.rollout.sampler == "local" or ranks.main:
        # An engine of rank 0's is nobody else's business: the others read its tables.
        among = ranks if recipe.rollout.sampler == "local" else Ranks(0, 1, ranks.local_rank, ranks.device)
        sampler = ranks.together(lambda: _sampler(recipe, checked, started, among))
        stack.callback(sampler.close)
        collector = Collector(recipe, checked.problems.train, sampler, judge, among)
    else:
        ranks.together(lambda: None)
    return GrpoSteps(
        recipe=recipe,
        engine=started.engine,
        objective=PolicyObjective(recipe.policy, recipe.rollout.temperature, vocabulary),
        ranks=ranks,
        weights=lambda: whole_weights(started.engine, started.model, started.adapted),
        collector=collector,
        tasks=checked.problems.train,
        held_out=checked.problems.held_out,
        vocabulary=vocabulary,
        run=hashlib.sha256(json.dumps(who, sort_keys=True).encode()).hexdigest()[:16],
        reference=_reference(recipe, checked, started, ranks) if recipe.policy.kl_coef else None,
    )


def _sampler(recipe: GrpoRecipe, checked: Checked, started: Started, ranks: Ranks) -> Sampler:
    rollout = recipe.rollout
    if rollout.sampler == "local":
        from kit.grpo.samplers.local import LocalSampler

        rows = rollout.engine.max_num_seqs
        return LocalSampler(started.engine.module, checked.chat, ranks, max_rows=rows)
    try:
        if rollout.sampler == "served":
            return _served(recipe, checked, ranks)
        from kit.grpo.samplers.vllm import VllmSampler

        return VllmSampler(
            checked.folder,
            rollout.engine,
            ranks,
            sync_timeout=rollout.sync_timeout,
            sleep=rollout.sleep,
            tools=rollout.tools,
        )
    except EngineError as error:
        raise ValueError(f"rollout.sampler = {rollout.sampler!r}: {error}") from error


def _served(recipe: GrpoRecipe, checked: Checked, ranks: Ranks) -> Sampler:
    from kit.grpo.samplers.served import ServedSampler
    from kit.grpo.samplers.wire import read_secret

    rollout = recipe.rollout
    return ServedSampler(
        checked.folder,
        rollout.servers,
        read_secret(rollout.secret_file),
        ranks,
        max_length=recipe.batch.max_length,
        dtype=rollout.engine.dtype,
        transfer=rollout.transfer,
        directory=Path(rollout.transfer_folder) if rollout.transfer_folder else None,
        sync_timeout=rollout.sync_timeout,
        tools=rollout.tools,
    )


def _reference(recipe: GrpoRecipe, checked: Checked, started: Started, ranks: Ranks) -> Reference:
    section = recipe.model.model_copy(update={"lora": None})

    def placed(folder: Path) -> Any:
        with _placed(recipe):
            model = load_causal(folder, section)
            return freeze(model, section, recipe, ranks, partition=_partition(recipe))

    def load(folder: Path) -> Any:
        return ranks.together(lambda: placed(folder))

    def keep(folder: Path) -> None:
        export(started.engine, started.model, started.adapted, checked.chat, folder, ranks)

    return Reference(
        start=None if started.adapted is not None else load(checked.folder),
        trained=started.engine.module,
        adapted=started.adapted,
        every=recipe.policy.reference_every,
        keep=keep,
        load=load,
        folder=recipe.out / "reference",
        resumable=(lambda: resumable(recipe.out / CHECKPOINTS)) if ranks.main else None,
    )


def _partition(recipe: GrpoRecipe) -> bool:
    return uses_deepspeed(recipe) and recipe.parallel.zero_stage == 3


@contextlib.contextmanager
def _placed(recipe: GrpoRecipe) -> Iterator[None]:
    """A reference is partitioned where the trained model is."""
    with partitioned(recipe, recipe.model.dtype) if _partition(recipe) else contextlib.nullcontext():
        yield
