"""Pipelines: order, folders, placeholders, and what is refused before anything is submitted."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from kit.launch.pipeline import Pipeline, tasks_of
from kit.launch.resources import Resources

TEXT = """
out = "runs/p"
[resources]
partition = "gpu"
time = "2h"
nodes = 2
[stages.report]
command = ["python", "-c", "print('$$HOME')", "${out}", "${package}"]
after = ["package"]
nodes = 1
[stages.distill]
phase = "distill"
recipe = "d.toml"
[stages.grpo]
phase = "grpo"
recipe = "g.toml"
overrides = ["model.path=${distill}/model"]
after = ["distill"]
nodes = 4
gpus_per_node = 8
generator_nodes = 2
[stages.package]
phase = "eval"
overrides = ["--bundle", "${grpo}/b", "--problems", "${distill}/p.csv"]
after = ["grpo"]
out = "elsewhere"
nodes = 1
time = "10"
"""


def load(**stages: dict[str, Any]) -> Pipeline:
    data = tomllib.loads(TEXT)
    for name, changes in stages.items():
        data["stages"].setdefault(name, {}).update(changes)
    return Pipeline.parse(data, "here")


def test_stages_come_after_what_they_need_with_their_placeholders_filled_in() -> None:
    distill, grpo, package, report = tasks_of(load())
    assert [task.name for task in (distill, grpo, package, report)] == [
        "distill",
        "grpo",
        "package",
        "report",
    ]
    assert distill.spec and distill.spec.to_args() == ["distill", "d.toml", "out=runs/p/distill"]
    assert grpo.spec and grpo.spec.to_args() == [
        "grpo",
        "g.toml",
        "--generator-nodes",
        "2",
        "model.path=runs/p/distill/model",
        "out=runs/p/grpo",
    ]
    assert package.spec and package.spec.to_args() == [
        *("eval", "--bundle", "runs/p/grpo/b", "--problems", "runs/p/distill/p.csv"),
        *("--out", "elsewhere/submission.parquet"),
    ]
    assert report.command == ("python", "-c", "print('$HOME')", "runs/p/report", "elsewhere")
    assert (grpo.after, grpo.out, package.out) == (("distill",), Path("runs/p/grpo"), Path("elsewhere"))
    assert grpo.ranks == 16 and distill.ranks == 0


def test_resources_are_the_pipelines_where_a_stage_says_nothing() -> None:
    distill, grpo, package, _ = tasks_of(load())
    assert distill.resources == Resources(partition="gpu", time="2h", nodes=2)
    assert grpo.resources == Resources(partition="gpu", time="2h", nodes=4, gpus_per_node=8)
    assert package.resources == Resources(partition="gpu", time="10", nodes=1)
    (first, *_) = tasks_of(load(), {"partition": "low", "account": "math", "gpus_per_node": "8"})
    assert first.resources == Resources(partition="gpu", time="2h", nodes=2, account="math", gpus_per_node=8)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            {"grpo": {"after": ["distil"]}},
            "stage grpo comes after 'distil', but the stages are report, distill",
        ),
        ({"distill": {"after": ["package"]}}, "wait for each other in a circle: .*grpo"),
        ({"distill": {"command": ["ls"]}}, "either phase .* or command"),
        ({"x": {}}, "either phase .* or command"),
        ({"report": {"overrides": ["a=b"]}}, "a command has words only"),
        ({"report": {"nodes": 2}}, "a command runs once"),
        ({"out": {"command": ["ls"]}}, "stage 'out' needs a name of letters"),
        ({"a-b": {"command": ["ls"]}}, "stage 'a-b' needs a name"),
        (
            {"grpo": {"recipes": "x"}},
            r"'stages.grpo.recipes' \(did you mean 'recipe'\?\); valid keys: recipe, ",
        ),
        ({"grpo": {"slurm": {"foo": "1"}}}, "--slurm foo: unknown parameter"),
    ],
)
def test_a_bad_file_is_refused(stages: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(**stages)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            {"report": {"command": ["${grop}"]}},
            "uses \\${grop}, but there is no such stage; there are report, dis",
        ),
        ({"distill": {"overrides": ["a=${grpo}"]}}, "which need not be finished: say after = \\['grpo'\\]"),
        ({"distill": {"overrides": ["a=5$"]}}, "has a lone \\$"),
        ({"grpo": {"recipe": None}}, "grpo needs a recipe"),
        ({"grpo": {"generator_nodes": 4}}, "leaves none to train"),
        ({"package": {"overrides": ["--bundle", "b"]}}, "eval needs --problems"),
    ],
)
def test_stages_that_cannot_run_are_refused(stages: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks_of(load(**stages))


def test_a_stage_sees_all_that_is_finished_not_only_what_it_names() -> None:
    *_, report = tasks_of(load(report={"command": ["${distill}", "${grpo}"]}))
    assert report.command == ("runs/p/distill", "runs/p/grpo")
