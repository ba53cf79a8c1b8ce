"""Whole runs of distillation: partitioned and replicated teachers, caches, on-policy steps, errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.data.records import Record, TopK, read_records, write_records
from kit.distill.recipe import DistillRecipe
from kit.traces.topk import TopKHeader, TopKWriter, vocabulary_digest
from tests.kit.distill.made import distill_recipe, forget, metrics_of, teacher, train
from tests.kit.training.workers import launch

ZERO3 = {"engine": "deepspeed", "zero_stage": 3}
ZERO2 = {"engine": "deepspeed", "zero_stage": 2}
OTHER_TEMPLATE = (
    "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}"
    "{% if m.role == 'assistant' %}{{ '<|endoftext|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[answer]' }}{% endif %}"
)


def run(recipe: DistillRecipe, world_size: int = 1) -> list[dict[str, Any]]:
    """Train afresh; the steps' values."""
    forget(recipe)
    ended = launch(train, world_size, recipe.model_dump(mode="json"))
    assert ended.codes == [0] * world_size, ended.errors
    return metrics_of(recipe.out)


def close(found: list[dict[str, Any]], expected: list[dict[str, Any]], rel: float = 1e-4) -> bool:
    assert len(found) == len(expected)
    names = ("loss", "kd", "ce", "grad_norm", "tokens", "trained_tokens")
    return all(
        ours[name] == pytest.approx(theirs[name], rel=rel)
        for ours, theirs in zip(found, expected, strict=True)
        for name in names
    )


@pytest.mark.slow
def test_a_partitioned_teacher_is_the_replicated_one(tmp_path: Path) -> None:
    """With its own prompts and end, its own width, gradient checkpointing, and more ranks than one."""
    teacher(tmp_path / "teacher", template=OTHER_TEMPLATE, eos="<|endoftext|>", pad_to=304)
    expected = run(distill_recipe(tmp_path))
    assert expected[-1]["loss"] < expected[0]["loss"]
    partitioned = {"partitioned": True}
    for parallel, section, world_size, model in (
        (ZERO3, partitioned, 2, {"gradient_checkpointing": True}),
        (ZERO2, partitioned, 2, {}),
        (ZERO3, {}, 1, {}),
        ({}, {}, 2, {}),
    ):
        found = run(distill_recipe(tmp_path, parallel=parallel, teacher=section, model=model), world_size)
        assert close(found, expected), (parallel, section, world_size)
    (prompts,) = (tmp_path / "run" / "tokens").glob("*/prompts")
    assert prompts.is_dir()
    plain = run(distill_recipe(tmp_path, batch={"packing": False, "max_steps": 4}))
    assert close(plain, expected)


# --- cached log-probabilities -----------------------------------------------------------------------------


def cache(folder: Path, k: int, temperatures: tuple[float, ...] = (2.0,), digest: str = "") -> None:
    """The data again, with the ids and the teacher's `k` likeliest tokens, as `kit.traces` leaves them."""
    import numpy as np
    import torch

    from kit.traces.teacher_pass import top_k_of
    from kit.training.chat import open_chat
    from kit.training.model import load_tokenizer
    from tests.kit.distill.test_objective import load

    model, tokenizer = load(folder / "teacher"), load_tokenizer(folder / "teacher")
    chat = open_chat(tokenizer)
    header = TopKHeader(
        vocab_size=259,
        k=k,
        temperatures=temperatures,
        tokenizer=digest or vocabulary_digest(tokenizer.get_vocab()),
        teacher="tiny",
    )
    made = []
    with TopKWriter(folder / "cache" / "part.topk", header) as writer:
        for record in read_records(folder / "data.jsonl"):
            prompt, ids = chat.prompt(record), chat.completion(record)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
            found = top_k_of(logits, k, temperatures)
            row = writer.append(*(np.asarray(part) for part in found))
            told = {"completion_ids": tuple(ids), "topk": TopK(file="cache/part.topk", row=row)}
            made.append(record.model_copy(update=told))
    write_records(folder / "traces.jsonl", made)


def cached_recipe(folder: Path, **sections: dict[str, Any]) -> DistillRecipe:
    base: dict[str, dict[str, Any]] = {
        "data": {"path": str(folder / "traces.jsonl")},
        "teacher": {"source": "cached"},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return distill_recipe(folder, **base)


@pytest.mark.slow
def test_a_whole_cache_is_the_online_teacher(tmp_path: Path) -> None:
    expected = run(distill_recipe(tmp_path))
    cache(tmp_path, 259)
    assert close(run(cached_recipe(tmp_path), 2), expected, rel=3e-3)
    # The top 8 only: a lower bound of the divergence, and the same cross-entropy at the start.
    cache(tmp_path, 8)
    few = run(cached_recipe(tmp_path))
    assert 0 < few[0]["kd"] < expected[0]["kd"]
    assert few[0]["ce"] == pytest.approx(expected[0]["ce"], rel=1e-5)


def refused(recipe: DistillRecipe, expected: str) -> None:
    """The run ends with this error before it trains, and leaves no checkpoint and no metrics."""
    import re

    (error,) = launch(train, 1, recipe.model_dump(mode="json")).errors
    assert error.startswith("ValueError"), error
    assert re.search(expected, error), error
    assert not (recipe.out / "metrics.jsonl").exists()
    assert not list((recipe.out).glob("checkpoints/step-*"))


@pytest.mark.slow
def test_caches_that_do_not_fit(tmp_path: Path) -> None:
    recipe = cached_recipe(tmp_path)
    cache(tmp_path, 4)
    data = tmp_path / "traces.jsonl"
    refused(
        cached_recipe(tmp_path, loss={"temperature": 1.0}),
        r"has temperatures 2, not 1; .*--top-k-temperatures",
    )
    whole = list(read_records(data))

    def told(index: int, **changes: Any) -> None:
        made = [r.model_copy(update=changes) if n == index else r for n, r in enumerate(whole)]
        write_records(data, made)

    told(2, topk=None)
    refused(recipe, r"problem 'What is .* has no cached log-probabilities: make them with")
    told(2, topk=TopK(file="../part.topk", row=0))
    refused(recipe, r"top-k file '\.\./part\.topk' must lie beside the traces")
    told(2, topk=TopK(file="cache/part.topk", row=999))
    refused(recipe, r"has rows 0 to 39, no row 999")
    told(2, completion="Other words.")
    refused(recipe, r"tokens for a completion of .*the traces were changed after it was made")
    write_records(data, whole)
    cache(tmp_path, 4, digest="1" * 64)
    refused(
        recipe, r"was made with the tokenizer of tiny, which is not the student's: take an online teacher"
    )
    cache(tmp_path, 4)
    part = tmp_path / "cache" / "part.topk"
    good = part.read_bytes()
    part.write_bytes(good[:-1000] + b"\xff" + good[-999:])
    refused(recipe, r"is damaged \(SHA-256 differs\)")
    part.write_bytes(good)
    # Nothing of all this stands in the way of the right run; a start with another temperature does not pass.
    assert launch(train, 1, recipe.model_dump(mode="json")).result == 4
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    refused(cached_recipe(tmp_path, loss={"temperature": 3.0}), "has temperatures 2, not 3")


# --- on-policy steps -------------------------------------------------------------------------------------


POLICY = {"on_policy": 0.5, "on_policy_max_tokens": 12}


@pytest.mark.slow
def test_on_policy_steps(tmp_path: Path) -> None:
    """About half of the steps: the same ones, and the same samples, on other ranks and after a resume."""
    from kit.distill.on_policy import draw

    sections: dict[str, dict[str, Any]] = {
        "batch": {"max_steps": 6},
        "optimizer": {"lr": 1e-4},
        "loss": POLICY,
        "teacher": {"path": str(tmp_path / "teacher")},
    }
    teacher(tmp_path / "teacher", pad_to=304)
    recipe = distill_recipe(tmp_path, **sections)
    sampled = {step + 1 for step in range(6) if draw(recipe.seed, step) < 0.5}
    assert 1 < len(sampled) < 6
    expected = run(recipe)
    plain = run(distill_recipe(tmp_path, **(sections | {"loss": {}})))
    for ours, theirs in zip(expected, plain, strict=True):
        assert (ours["step_tokens"] != theirs["step_tokens"]) == (ours["step"] in sampled)
        assert ours["order"] == theirs["order"]
    assert close(run(recipe, 2), expected)
    three = distill_recipe(tmp_path, **(sections | {"parallel": ZERO3, "teacher": {"partitioned": True}}))
    assert close(run(three, 2), expected)
    forget(recipe)
    first = distill_recipe(tmp_path, **sections).model_dump(mode="json")
    assert launch(stopped_after, 1, first, 3).result == 3
    assert launch(train, 1, first).result == 6
    assert metrics_of(recipe.out) == expected


def stopped_after(recipe: dict[str, Any], step: int) -> int:
    """Train, and send this process a signal in a step."""
    import os
    import signal

    from kit.distill.phase import distill
    from kit.training import loop

    one_step = loop._Run._one_step

    def signalled(self: Any, now: int) -> Any:
        if now + 1 == step:
            os.kill(os.getpid(), signal.SIGUSR1)
        return one_step(self, now)

    loop._Run._one_step = signalled  # type: ignore[method-assign, assignment]
    outcome = distill(DistillRecipe.parse(recipe, "the test"))
    assert outcome.exit_code == 85
    return outcome.steps


def test_the_share_of_on_policy_steps_is_lambda() -> None:
    """2,000 draws: the deviation of their share is 0.0103."""
    from kit.distill.on_policy import draw

    for share in (0.1, 0.3, 0.8):
        assert sum(draw(5, step) < share for step in range(2000)) / 2000 == pytest.approx(share, abs=0.04)
    assert [draw(5, step) for step in range(5)] != [draw(6, step) for step in range(5)]
    assert all(0 <= draw(1, step) < 1 for step in range(100))


# --- teachers that do not fit ----------------------------------------------------------------------------


@pytest.mark.slow
def test_teachers_that_do_not_fit(tmp_path: Path) -> None:
    recipe = distill_recipe(tmp_path)
    refused(
        distill_recipe(tmp_path, teacher={"partitioned": True}),
        r"teacher\.partitioned needs parallel\.engine = 'deepspeed'.*teacher\.partitioned=false",
    )
    refused(distill_recipe(tmp_path, teacher={"path": "./nowhere"}), r"teacher\.path '\./nowhere' is neither")
    folder = tmp_path / "teacher"
    tokens = (folder / "tokenizer.json").read_text()
    other = json.loads(tokens)
    vocabulary = other["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (folder / "tokenizer.json").write_text(json.dumps(other))
    refused(recipe, r"has another vocabulary than student .*: id \d+ is 'B' there and 'A' here")
    (folder / "tokenizer.json").write_text(tokens)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 100}))
    refused(recipe, r"batch\.max_length=192 is over the 100 positions of .*teacher")
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    refused(recipe, r"teacher lacks 9 weights that its config\.json asks for")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if '1' in m.content %}{{ raise_exception('no ones') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    path = tmp_path / "data.jsonl"
    write_records(path, [Record(problem="Two 1?", completion="2"), *list(read_records(path))])
    refused(recipe, r"teacher\.path .* cannot be asked: the chat template fails: no ones")
