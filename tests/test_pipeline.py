"""`make pipeline`, reduced: the shipped stages run by their own commands, and again where inputs change."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kit.launch.pipeline import Pipeline, tasks_of
from kit.launch.records import read
from kit.launch.resources import SITE
from kit.small import SmallRecipe
from tests.kit.launch.made import launch

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "kit" / "recipes"
FILES = ("pipeline.toml", "pipeline_qwen32b.toml")


def stages_of(name: str) -> dict[str, dict[str, Any]]:
    stages: dict[str, dict[str, Any]] = tomllib.loads((RECIPES / name).read_text(encoding="utf-8"))["stages"]
    return stages


@pytest.mark.parametrize("name", FILES)
def test_every_stage_of_a_shipped_pipeline_is_complete(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for task in tasks_of(Pipeline.load(RECIPES / name)):
        if task.spec is not None:
            task.spec.load_recipe()  # every override is a setting of its phase
        for word in task.words:
            assert "$" not in word, (task.name, word)


SINFO = """#!/bin/sh
for n in 1 2 3 4; do echo "gpu*|node$n|idle|96|2000000|7-00:00:00|infinite|gpu:h100:8"; done
"""


@pytest.mark.slow
def test_the_clusters_pipeline_fits_its_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run checks recipes, what their memory comes to, and what the cluster has."""
    (tmp_path / "sinfo").write_text(SINFO)
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(ROOT)
    for name in SITE.values():
        monkeypatch.delenv(name, raising=False)
    words = ("pipeline", "kit/recipes/pipeline_qwen32b.toml", f"out={tmp_path}/run", "--dry-run")
    said = launch(*words)
    assert said.code == 0, said.err
    assert "#SBATCH --nodes=4\n" in said.out and "# grpo: 2 nodes, for every engine that fits" in said.out
    assert not (tmp_path / "run").exists()
    refused = launch(*words, "stages.distill.nodes=9")
    assert refused.code == 2 and refused.err.startswith("distill: ") and "has 4 nodes" in refused.err
    refused = launch(*words, "stages.distill.gpus_per_node=1", "stages.distill.nodes=1")
    assert refused.code == 2 and "GB" in refused.err


def test_both_have_the_same_stages_from_the_first_phase_on() -> None:
    small, large = (set(stages_of(name)) for name in FILES)
    assert small - large == {"small", "base", "teacher"} and large - small == {"problems"}
    for name in large & small - {"traces", "distill", "eval_base"}:
        own = stages_of(FILES[0])[name]
        other = stages_of(FILES[1])[name]
        assert own["after"] == other["after"], name
        assert own.get("phase") == other.get("phase"), name


def test_it_is_measured_on_problems_that_nothing_learns_from() -> None:
    recipe = SmallRecipe.load(RECIPES / "pipeline_problems.toml")
    splits = {name: wanted.split for name, wanted in recipe.sets.items()}
    assert splits.pop("test") == "test" and splits.pop("validation") == "validation"
    assert set(splits.values()) == {"train"}
    stages = stages_of("pipeline.toml")
    using = {name for name, stage in stages.items() if "${small}/test.jsonl" in json.dumps(stage)}
    assert using == {"eval_base", "eval_distill", "eval_grpo", "eval_prm", "contest"}
    fitted = {name for name, stage in stages.items() if "${small}/validation.jsonl" in json.dumps(stage)}
    assert fitted == {"samples"}


PROBLEMS = """
[models.base]
hidden = 32
heads = 1
layers = 1
[sets.base]
count = 40
[sets.test]
count = 3
split = "test"
"""
SHORTER = ["batch.max_steps=2", "batch.batch_size=4", "checkpoint.every=0"]


class Reduced:
    """Three stages of the shipped pipeline, smaller, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "problems.toml").write_text(PROBLEMS)
        self.stages = {name: stages_of("pipeline.toml")[name] for name in ("small", "base", "eval_distill")}
        words = self.stages["small"]["command"]
        words[words.index("kit/recipes/pipeline_problems.toml")] = "problems.toml"
        self.stages["base"]["recipe"] = str(RECIPES / "distill_cpu.toml")
        self.stages["base"]["overrides"] += SHORTER
        words = [word.replace("${distill}", "${base}") for word in self.stages["eval_distill"]["command"]]
        words[words.index("8")] = "2"
        self.stages["eval_distill"] |= {"command": words, "after": ["base"]}

    def run(self) -> str:
        """Once more; what it said."""
        lines = ['out = "runs/p"']
        for name, stage in self.stages.items():
            lines += [f"[stages.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in stage.items())]
        (self.folder / "p.toml").write_text("\n".join(lines))
        words = ["pipeline", "p.toml", "--cluster", "local", "--jobs", "2", "--no-estimate"]
        done = subprocess.run(
            [sys.executable, "-m", "kit.launch", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stderr

    @property
    def jobs(self) -> list[str]:
        return [record.name for record in read(self.folder / "runs" / "p" / "launch")]


@pytest.mark.slow
def test_the_second_time_nothing_runs_and_after_a_change_only_what_depends_on_it(tmp_path: Path) -> None:
    place = Reduced(tmp_path)
    said = place.run()
    assert re.search(r"1/3 small: is new\n", said) and "eval_distill: COMPLETED" in said.splitlines()
    assert place.jobs == ["small", "base", "eval_distill"]
    run = tmp_path / "runs" / "p"
    results = run / "eval_distill" / "results.json"
    first = json.loads(results.read_text(encoding="utf-8"))
    assert first["figures"]["test"]["problems"] == 3 and first["samples"] == 2
    shown = json.loads((run / "launch" / "stages.json").read_text(encoding="utf-8"))
    assert [stage["name"] for stage in shown["stages"]] == ["small", "base", "eval_distill"]
    assert all(stage["seconds"] > 0 and stage["cpu_seconds"] > 0 for stage in shown["stages"])
    assert sum(stage["seconds"] for stage in shown["stages"]) == pytest.approx(shown["seconds"], rel=0.5)

    assert place.run().splitlines() == ["unchanged, not run again: all stages"]
    assert place.jobs == ["small", "base", "eval_distill"]

    place.stages["base"]["overrides"].append("optimizer.lr=1e-3")
    said = place.run()
    assert said.startswith("unchanged, not run again: small\n1/2 base: changed: settings, took 0:")
    assert "2/2 eval_distill: comes after base, took 0:" in said
    assert place.jobs[3:] == ["base", "eval_distill"]
    assert len(list(run.glob("base.before-*"))) == len(list(run.glob("eval_distill.before-*"))) == 1
    skipped = json.loads((run / "launch" / "stages.json").read_text(encoding="utf-8"))["stages"]
    assert [stage["skipped"] for stage in skipped] == [True, False, False]
