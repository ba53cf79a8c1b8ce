"""The plan of the study of GRPO and its way through a stop. The slow test trains for real, a few steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.learning.__main__ import GRPO_QUICK
from benchmarks.learning.grpo_report import LIMIT
from benchmarks.learning.grpo_settings import FULL, GRPO, ArmSettings, GrpoStudy, PolicySettings, grpo_recipe
from benchmarks.learning.grpo_study import policy_runs, prepare, run_all, run_one
from benchmarks.learning.runs import load_settings, write_result
from benchmarks.shared import ROOT
from kit.data.records import read_records
from kit.training.model import find_model
from kit.worked import Difficulty

SUMS = Difficulty(kinds=["sum"], min_operands=4, max_operands=4, largest=30, worded=0.0)
ARMS = {FULL: ArmSettings(label="all"), "late": ArmSettings(label="late", change={"epochs": 2})}
SMALL = GrpoStudy(
    policy=PolicySettings(problems=60, steps=4),
    arms=ARMS,
    difficulty=SUMS,
    measured=SUMS,
    seeds=[0, 1],
    test_problems=10,
    validation_problems=8,
)


def test_the_shipped_settings_are_the_promised_study() -> None:
    study = GrpoStudy.load(GRPO)
    assert len(study.seeds) == 3
    assert study.test_problems >= 500
    assert (study.measured.min_operands, study.measured.max_operands) == (4, 4)
    full = study.arm(FULL)
    # The kit's defaults, with several updates a batch: the clip acts only there.
    assert (full.kind, full.clip_low, full.clip_high) == ("dapo", 0.2, 0.28)
    assert full.refill_rounds > 0
    assert full.minibatches > 1
    changes = {name: set(arm.change) for name, arm in study.arms.items()}
    assert changes["no_dynamic_sampling"] == {"refill_rounds"}
    assert changes["no_clip_higher"] == {"clip_high"}
    assert changes["sequence_loss"] == {"kind"}
    assert study.arm("no_dynamic_sampling").refill_rounds == 0
    assert study.arm("no_clip_higher").clip_high == full.clip_low
    assert study.arm("sequence_loss").kind == "grpo"
    assert study.arm("one_update").minibatches * study.arm("one_update").epochs == 1
    assert LIMIT == 185


def test_a_solution_fits() -> None:
    from kit.small import make_small_tokenizer
    from kit.worked import generate

    study = GrpoStudy.load(GRPO)
    tokenizer = make_small_tokenizer()
    for record in generate(300, "train", 7, study.difficulty):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": record.problem}], tokenize=False, add_generation_prompt=True
        )
        assert len(tokenizer(text)["input_ids"]) <= study.max_prompt
        # One more ends it.
        assert len(tokenizer(record.completion)["input_ids"]) + 1 <= study.max_completion


def test_arms_differ_in_their_changes_alone(tmp_path: Path) -> None:
    full, late = (grpo_recipe(SMALL, tmp_path, arm, 1).model_dump() for arm in (FULL, "late"))
    assert {key for key in full if full[key] != late[key]} == {"out", "batch"}
    assert {key for key in full["batch"] if full["batch"][key] != late["batch"][key]} == {"epochs"}
    assert full["model"]["path"] == str(tmp_path / "start-1" / "model")
    assert full["data"]["path"] == str(tmp_path / "problems-1.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1, 1]}, "repeat one"),
        ({"arms": {"late": ARMS["late"]}}, "without changes"),
        ({"arms": {FULL: ArmSettings(label="all", change={"epochs": 2})}}, "without changes"),
        ({"arms": {**ARMS, "a/b": ARMS["late"]}}, "folder's name"),
        (
            {"arms": {**ARMS, "odd": ArmSettings(label="odd", change={"epoch": 2})}},
            r"arms\.odd\.change.*epoch",
        ),
        ({"arms": {**ARMS, "odd": ArmSettings(label="odd", change={"lr": -1})}}, r"arms\.odd\.change.*lr"),
    ],
)
def test_a_study_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrpoStudy.parse({**SMALL.model_dump(), **change}, "the test")


def test_the_full_recipe_runs_first() -> None:
    assert [run.name for run in policy_runs(SMALL)] == ["full-0", "full-1", "late-0", "late-1"]


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path)
    assert load_settings(GrpoStudy, tmp_path) == SMALL
    parts = {path.stem: list(read_records(path)) for path in tmp_path.glob("*.jsonl")}
    assert {name: len(records) for name, records in parts.items()} == {
        **{"problems-0": 60, "problems-1": 60},
        **{"validation": 8, "test": 10},
    }
    seen = [record.problem for name in ("problems-0", "problems-1", "validation") for record in parts[name]]
    assert not {record.problem for record in parts["test"]} & set(seen)
    assert parts["problems-0"] != parts["problems-1"]
    with pytest.raises(ValueError, match="other settings"):
        prepare(SMALL.model_copy(update={"samples": 7}), tmp_path)
    with pytest.raises(ValueError, match="no run 'late-7'"):
        run_one(tmp_path, "late-7")


def test_finished_runs_are_not_run_again(tmp_path: Path) -> None:
    prepare(SMALL, tmp_path)
    for name in ("start-0", "start-1", *(run.name for run in policy_runs(SMALL))):
        write_result(
            tmp_path, name, {"steps": 1, "cpu_seconds": 2.0, "greedy": [1.0, 0.0], "sampled": [0.25, 0.25]}
        )
    said: list[str] = []
    run_all(SMALL, tmp_path, 2, said.append)
    assert said == []
    assert not list(tmp_path.glob("*.log"))


@pytest.mark.slow
def test_the_whole_study_and_its_resumption(tmp_path: Path) -> None:
    # Two of the arms: each run loads the libraries anew.
    text = GRPO.read_text(encoding="utf-8")
    settings = tmp_path / "two.toml"
    settings.write_text(text[: text.index("[arms.no_dynamic_sampling]")] + TWO, encoding="utf-8")
    sets = [part for change in GRPO_QUICK for part in ("--set", change)]
    command = [sys.executable, "-m", "benchmarks.learning", "grpo", "--settings", str(settings), *sets]
    command += ["--folder", str(tmp_path)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=800)
    assert "full-1: 2 steps" in first.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (tmp_path / "grpo.png").stat().st_size > 10_000
    assert [start["steps"] for start in figures["starts"]] == [10, 10]
    assert [point["step"] for point in figures["arms"]["full"]["seeds"][0]["curve"]] == [2]
    assert len(figures["arms"]["full"]["seeds"][0]["reward"]) == 2
    for name in ("start-0", "twice-1"):
        assert find_model(str(tmp_path / name / "model")) == tmp_path / name / "model"
    assert not (tmp_path / "full-0" / "rollouts").exists()
    # One lost result is all that is run again, as a whole.
    (tmp_path / "twice-1" / "result.json").unlink()
    (tmp_path / "twice-1" / "left").touch()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=400)
    names = [line.split(":")[0] for line in again.stdout.splitlines() if " CPU-s, solved" in line]
    assert names == ["twice-1"]
    assert not (tmp_path / "twice-1" / "left").exists()


TWO = """
[arms.twice]
label = "twice"
change = { epochs = 2 }
"""
