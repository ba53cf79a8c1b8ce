"""A user's mistake ends with exit code 2 and one line that names the value, the place and the way out."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.data.records import Record, write_records
from tests.kit.distill.made import distill_recipe
from tests.kit.training.made import sums
from tests.kit.training.test_signals_end_to_end import write_toml
from tests.kit.training.workers import launch


def cli(arguments: list[str], log: str, environment: dict[str, str]) -> None:
    """`python -m kit.train ...` in this process, its output in `log`."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from rich.console import Console

    from kit import train
    from submission.cli import run

    train.console = Console(stderr=True, soft_wrap=True, emoji=False)
    sys.argv = ["kit.train", *arguments]
    run(train.app)


class Runner:
    """Starts the command line on a recipe in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        made = distill_recipe(folder, batch={"max_steps": 2}, loss={"alpha": 0.0})
        self.recipe = made.model_dump(mode="json")

    def __call__(self, *overrides: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
        write_toml(self.folder / "recipe.toml", self.recipe)
        log = self.folder / "log"
        arguments = ["distill", str(self.folder / "recipe.toml"), *overrides]
        ended = launch(cli, 1, arguments, str(log), environment or {})
        return ended.codes[0], log.read_text()

    def refused(self, expected: str, *overrides: str, **options: Any) -> None:
        code, said = self(*overrides, **options)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code == 2, said
        assert len(lines) == 1 and re.search(expected, lines[0]), said
        before_the_workers_own = said.partition("Process ForkServerProcess")[0]
        assert "Traceback" not in before_the_workers_own, said


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.mark.slow
def test_recipes_and_environment(runner: Runner) -> None:
    out = runner.folder / "run"
    for expected, override in (
        (r"unknown key 'optimizer\.lrr' \(did you mean 'lr'\?\)", "optimizer.lrr=1"),
        (r"optimizer\.lr: .*greater than 0 \(got '-1'\)", "optimizer.lr=-1"),
        (r"model\.path './nowhere' is neither a folder nor a hub name", "model.path=./nowhere"),
        (r"model\.path 'owner/nothing' .*could not be fetched from the hub", "model.path=owner/nothing"),
        (r"seed: .*less than", "seed=99999999999999999999"),
        (r"model\.tokenizer './nowhere' is neither a folder nor", "model.tokenizer=./nowhere"),
        (
            r"batch\.max_length=4096 is over the 2048 positions of .*student.*lower it",
            "batch.max_length=4096",
        ),
        (r"nowhere\.jsonl", "data.path=./nowhere.jsonl"),
        (r"needs CUDA and the package flash-attn", "model.attention=flash_attention_2"),
    ):
        runner.refused(expected, override)
    runner.refused(
        r"WORLD_SIZE is set but RANK, LOCAL_RANK.* is not: start with torchrun",
        environment={"WORLD_SIZE": "2"},
    )
    assert not list(out.glob("checkpoints/step-*"))
    code, said = runner()
    assert code == 0, said
    assert (out / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_data(runner: Runner) -> None:
    data = runner.folder / "data.jsonl"
    rows = [{"question_text": f"What is {n}?", "reply": f"It is {n}."} for n in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runner.refused(r"question_text")
    runner.refused(r"nothing_here", 'data.columns={problem="nothing_here", completion="reply"}')
    write_records(data, [Record(problem=f"What is {n}?") for n in range(5)])
    runner.refused(r"no row is left to train on \(no completion: \d\)")
    data.write_text("")
    runner.refused(r"data\.jsonl|the set is empty")
    sums(data)
    assert runner()[0] == 0


@pytest.mark.slow
def test_models(runner: Runner) -> None:
    student = runner.folder / "student"
    kept = {path.name: path.read_bytes() for path in student.iterdir()}

    def restore() -> None:
        for path in student.iterdir():
            path.unlink()
        for name, content in kept.items():
            (student / name).write_bytes(content)

    (student / "chat_template.jinja").unlink()
    runner.refused(r"no chat template")
    restore()
    (student / "model.safetensors").rename(student / "pytorch_model.bin")
    runner.refused(r"pytorch_model\.bin, a pickle, .*safe_serialization=True")
    restore()
    (student / "model.safetensors").write_bytes(kept["model.safetensors"][:-100])
    runner.refused(r"not a whole safetensors file")
    restore()
    config = json.loads(kept["config.json"])
    for change, expected in (
        ({"num_hidden_layers": 3}, r"lacks 9 weights that its config\.json asks for"),
        ({"hidden_size": "much"}, r"config\.json cannot be used: .*hidden_size"),
        ({"vocab_size": 100}, r"the tokenizer has 259 tokens but the model has 100 rows: .*model\.tokenizer"),
        ({"model_type": "no_such"}, r"knows no model_type 'no_such'"),
    ):
        (student / "config.json").write_text(json.dumps(config | change))
        runner.refused(expected)
    restore()
    assert runner()[0] == 0


@pytest.mark.slow
def test_the_folder_of_another_run(runner: Runner) -> None:
    assert runner()[0] == 0
    before = (runner.folder / "run" / "metrics.jsonl").read_bytes()
    runner.refused(
        r"checkpoint .* is another run's: optimizer\.lr is 0\.001 there and 0\.5 here\. Choose another `out`",
        "optimizer.lr=0.5",
    )
    runner.refused(r"checkpoint\.resume is false: choose another `out`", "checkpoint.resume=false")
    sums(runner.folder / "data.jsonl", seed=1)
    runner.refused(r"is another run's: tables is '\w+' there and '\w+' here")
    assert (runner.folder / "run" / "metrics.jsonl").read_bytes() == before
    sums(runner.folder / "data.jsonl")
    assert runner()[0] == 0
    assert (runner.folder / "run" / "metrics.jsonl").read_bytes() == before


def cli_with_full_disk(arguments: list[str], log: str, limit: int, step: int) -> None:
    """From a step on no file may become larger than `limit` bytes."""
    import resource

    from kit.training import loop

    save = loop._Run._save

    def limited(self: Any, now: int, evaluated: bool) -> None:
        if now >= step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        save(self, now, evaluated)

    loop._Run._save = limited  # type: ignore[method-assign, assignment]
    cli(arguments, log, {})


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_at_a_save(runner: Runner, asynchronous: bool) -> None:
    runner.recipe["checkpoint"] |= {"asynchronous": asynchronous}
    runner.recipe["batch"] |= {"max_steps": 5}
    write_toml(runner.folder / "recipe.toml", runner.recipe)
    log = runner.folder / "log"
    arguments = ["distill", str(runner.folder / "recipe.toml")]
    ended = launch(cli_with_full_disk, 1, arguments, str(log), 50_000, 3)
    said = log.read_text()
    assert ended.codes == [2], said
    expected = r"error: the checkpoint of step 3 was not written to .*Earlier checkpoints are untouched"
    assert re.search(expected, said), said
    assert sorted(path.name for path in (runner.folder / "run" / "checkpoints").glob("step-*")) == [
        "step-00000001",
        "step-00000002",
    ]
    code, said = runner()
    assert code == 0, said
    lines = (runner.folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if '"train"' in line] == [1, 2, 3, 4, 5]
