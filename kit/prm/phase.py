"""Phase 3 as a whole: check, prepare, train, export.

    from kit.prm.phase import prm
    prm(PrmRecipe.load(Path("kit/recipes/prm_cpu.toml")))

Everything cheap is checked before any model is loaded, and what one rank finds wrong all ranks raise.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

from kit.prm.calibration import fit_scale_and_bias
from kit.prm.data import Data, form_of, key_of, make_tables, open_tables
from kit.prm.export import export_scorer, load_best
from kit.prm.heads import Scalars, adapt_scorer, check_head, load_scorer, wrap_scorer
from kit.prm.objective import StepObjective
from kit.prm.recipe import PrmRecipe
from kit.prm.rows import StepRow
from kit.prm.steps import PrmSteps, score_rows
from kit.training.chat import Chat, open_chat
from kit.training.checkpoints import refuse_another_run
from kit.training.estimate.work import flops_per_token
from kit.training.loop import CHECKPOINTS, Job, Outcome, flat, revision_of, run
from kit.training.model import check_architecture, find_model, load_config
from kit.training.phase import MODEL, check_positions, find_tokenizer, joined
from kit.training.ranks import Ranks
from kit.training.start import Parts, Started, start
from kit.training.tables import tokenizer_digest
from submission.checkpoint import check_weights, read_json
from submission.engines.base import EngineError
from submission.files import write_text
from submission.prm.encoding import StepEncoder
from submission.prm.heads import QWEN_PRM, PrmConfig

FREE: dict[str, bool | set[str]] = {
    **dict.fromkeys(("out", "logging", "checkpoint", "parallel", "faults", "assume"), True),
    "evaluation": {"metric", "threshold", "export", "calibrate"},
}
"""Settings that do not change what is learnt: a run may be resumed with others."""
FIT_ROWS = 256
"""Rows that `logprob`'s first scale and bias are fitted on."""


@dataclass(frozen=True)
class Checked:
    """What the cheap checks found."""

    folder: Path
    chat: Chat
    encoder: StepEncoder
    form: PrmConfig


def prm(recipe: PrmRecipe) -> Outcome:
    """Train as the recipe says, from the last checkpoint if there is one; export the model to `out`/model.

    Raises:
        ValueError: something is wrong with the recipe, the model or the data; raised by all ranks.
    """
    with joined(recipe) as (ranks, stop):
        checked = ranks.together(lambda: check(recipe))
        made = ranks.together(lambda: _tables(recipe, checked) if ranks.main else "")
        data = open_tables(recipe, ranks.share(made))
        who = identity(recipe, data, checked)
        ranks.together(lambda: refuse_another_run(recipe.out / CHECKPOINTS, who))
        scalars = Scalars(gain=recipe.head.scalar_lr / recipe.optimizer.lr)
        parts = parts_of(recipe, scalars)
        started = ranks.together(lambda: start(recipe, checked.folder, ranks, parts))
        objective = StepObjective(data.weights)
        if recipe.head.kind == "logprob":
            _fit_start(recipe, started, data, who, ranks, scalars)
        steps = _steps(recipe, data, started, objective, ranks)
        job = Job(
            recipe=recipe,
            ranks=ranks,
            engine=started.engine,
            steps=steps,
            identity=who,
            flops_per_token=flops_per_token(checked.folder),
            counts=data.counts,
            revision=revision_of(Path(__file__).parent),
        )
        outcome = run(job, stop)
        if outcome.finished:
            _export(recipe, checked, data, started, objective, scalars, ranks)
        return outcome


def check(recipe: PrmRecipe) -> Checked:
    """Everything about model, tokenizer and template that can be wrong, without loading a weight.

    Raises:
        ValueError: naming what is wrong, where, and the way out.
    """
    folder = find_start(recipe.model.path)
    config = load_config(folder)
    named, tokenizer = find_tokenizer(recipe, folder, config)
    check_head(config, recipe.head, recipe.model.path)
    if recipe.head.kind == "logprob":
        check_architecture(config)
    check_positions(recipe, config, recipe.model.path)
    chat = open_chat(tokenizer, recipe.model.path)
    form = form_of(tokenizer, recipe.head)
    try:
        return Checked(folder, chat, StepEncoder(named, form), form)
    except EngineError as error:
        raise ValueError(str(error)) from None


def find_start(name: str) -> Path:
    """Folder of a checkpoint that generates text, or of a process reward model that is trained on.

    Raises:
        ValueError: there is no whole, safe checkpoint of that name.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        found: Any = read_json(folder / "config.json")
        kinds = found.get("architectures") if isinstance(found, dict) else None
        kind = str(kinds[0]) if isinstance(kinds, list) and kinds else ""
        if kind.endswith(("ForTokenClassification", QWEN_PRM)):
            check_weights(folder)
            return folder.resolve()
    return find_model(name, "model.path")


def parts_of(recipe: PrmRecipe, scalars: Scalars) -> Parts:
    """What the training core builds the model by."""
    head = recipe.head

    def load(folder: Path, section: Any, *, quantize: bool) -> Any:
        return load_scorer(folder, section, head, recipe.seed, quantize=quantize)

    return Parts(
        load=load,
        adapt=lambda model, section: adapt_scorer(model, section, head),
        wrap=partial(_wrapped, recipe, scalars),
    )


def _wrapped(recipe: PrmRecipe, scalars: Scalars, model: Any, *, adapted: Any, chunk: int) -> Any:
    return wrap_scorer(model, recipe.head, adapted=adapted, chunk=chunk, scalars=scalars)


def _tables(recipe: PrmRecipe, checked: Checked) -> str:
    key = key_of(recipe, checked.chat.tokenizer, checked.form)
    return make_tables(recipe, checked.encoder, key)


def identity(recipe: PrmRecipe, data: Data, checked: Checked) -> dict[str, JsonValue]:
    """What a checkpoint must have in common with a run that goes on from it."""
    return {
        **flat(recipe.model_dump(mode="json", exclude=FREE)),
        "phase": "prm",
        "tables": data.key,
        "tokenizer": tokenizer_digest(checked.chat.tokenizer),
    }


def _steps(
    recipe: PrmRecipe, data: Data, started: Started, objective: StepObjective, ranks: Ranks
) -> PrmSteps:
    return PrmSteps(
        engine=started.engine,
        objective=objective,
        batch=recipe.batch,
        ranks=ranks,
        row_count=len(data.train),
        rows_of=lambda _, numbers: [data.train[number] for number in numbers],
        validation=data.validation,
        metric=recipe.evaluation.metric,
        lower_is_better=recipe.evaluation.metric in ("loss", "ece"),
        threshold=recipe.evaluation.threshold,
    )


def _fit_start(
    recipe: PrmRecipe,
    started: Started,
    data: Data,
    who: dict[str, JsonValue],
    ranks: Ranks,
    scalars: Scalars,
) -> None:
    """Set the scale and bias that the run starts from: fitted once, and read by every resume. Collective."""
    digest = hashlib.sha256(json.dumps(who, sort_keys=True).encode()).hexdigest()[:16]
    path = recipe.out / f"start-{digest}.json"

    def known() -> str:
        return path.read_text(encoding="utf-8") if ranks.main and path.is_file() else ""

    text = ranks.share(ranks.together(known))
    if not text:
        rows = [data.train[index] for index in range(min(FIT_ROWS, len(data.train)))]
        fitted = _fit(recipe, started, StepObjective(), rows, ranks, (1.0, 0.0))
        text = json.dumps(fitted)
        if ranks.main:
            write_text(path, text)
    scalars.scale, scalars.bias = map(float, json.loads(text))


def _fit(
    recipe: PrmRecipe,
    started: Started,
    objective: StepObjective,
    rows: list[StepRow],
    ranks: Ranks,
    prior: tuple[float, float],
) -> tuple[float, float]:
    """Scale and bias over the model's log-odds that fit the rows' labels best. Collective."""
    _, scores = score_rows(started.engine, objective, rows, recipe.batch, ranks)
    x, y = np.concatenate(scores), np.concatenate([row.labels for row in rows])
    known = np.isfinite(y) & np.isfinite(x)
    return fit_scale_and_bias(x[known], y[known], prior)


def _export(
    recipe: PrmRecipe,
    checked: Checked,
    data: Data,
    started: Started,
    objective: StepObjective,
    scalars: Scalars,
    ranks: Ranks,
) -> None:
    section = recipe.evaluation
    if section.export == "best":
        lower = section.metric in ("loss", "ece")
        load_best(recipe.out / CHECKPOINTS, started.engine, ranks, lower_is_better=lower)
    fitted = (1.0, 0.0)
    if section.calibrate and data.validation:
        rows = [row for row in data.validation if isinstance(row, StepRow)]
        fitted = _fit(recipe, started, objective, rows, ranks, fitted)
    folder = recipe.out / MODEL
    export_scorer(started, checked.chat, checked.form, checked.folder, folder, ranks, scalars, fitted)
