"""A user's mistake ends with one line that names the value, the place and the way out, before a model is
loaded; and what is left out of the data is counted."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from kit.data.records import Record, write_records
from kit.grpo.phase import check, grpo, identity
from kit.grpo.problems import Problems, load_problems
from tests.kit.distill.test_bad_input import cli
from tests.kit.grpo.made import REWARDS, grpo_recipe, rewarded, train
from tests.kit.training.made import sums
from tests.kit.training.test_signals_end_to_end import write_toml
from tests.kit.training.workers import launch


def problems(folder: Path, **sections: dict[str, Any]) -> Problems:
    recipe = grpo_recipe(folder, **sections)
    return load_problems(recipe, Path(recipe.model.path))


def write(folder: Path, *records: Record) -> None:
    write_records(folder / "data.jsonl", records)


def good(count: int, begin: int = 0) -> list[Record]:
    return [Record(problem=f"Say {n}.", answer=str(n)) for n in range(begin, begin + count)]


# --- what is taken ----------------------------------------------------------------------------------------


def test_problems_are_prompts_with_a_gold_answer(tmp_path: Path) -> None:
    write(tmp_path, *good(5), Record(problem="Worked.", answer="1/2", completion="It is \\boxed{1/2}."))
    found = problems(tmp_path)
    assert [task.record.answer for task in found.train] == ["0", "1", "2", "3", "4", "1/2"]
    assert not any(task.record.completion for task in found.train)
    assert found.held_out == [] and found.counts == {}


def test_problems_are_held_out(tmp_path: Path) -> None:
    """By their text alone, so that a longer set holds out the same; and no more than are evaluated."""
    write(tmp_path, *good(60))
    found = problems(tmp_path, data={"validation_share": 0.3})
    held, kept = ({task.record.problem for task in part} for part in (found.held_out, found.train))
    assert not held & kept and len(held | kept) == 60 and 8 < len(held) < 28
    write(tmp_path, *good(80))
    assert held <= {
        task.record.problem for task in problems(tmp_path, data={"validation_share": 0.3}).held_out
    }
    few = problems(tmp_path, data={"validation_share": 0.3}, evaluation={"rows": 4})
    assert len(few.held_out) == 4
    assert len(few.train) == len(problems(tmp_path, data={"validation_share": 0.3}).train)


def test_a_validation_set_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, *good(6))
    other = tmp_path / "other.jsonl"
    write_records(other, good(9, begin=4))
    with caplog.at_level(logging.WARNING):
        found = problems(tmp_path, data={"validation": str(other)}, evaluation={"rows": 7})
    assert (len(found.train), len(found.held_out)) == (6, 7)
    assert "2 of 7 validation problems are in the training data too" in caplog.text


def test_recorded_pass_rates(tmp_path: Path) -> None:
    rates = [None, 0.0, 0.2, 0.5, 1.0]
    write(tmp_path, *(Record(problem=f"Say {n}.", answer="1", pass_rate=n) for n in rates))
    found = problems(tmp_path, data={"min_pass_rate": 0.1, "max_pass_rate": 0.9})
    assert [task.record.pass_rate for task in found.train] == [None, 0.2, 0.5]
    assert found.counts == {"problems left out (pass rate)": 2}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    write(
        tmp_path,
        *good(20),
        Record(problem="Say 3.", answer="3"),
        Record(problem="No answer."),
        Record(problem="Long " * 30, answer="1"),
    )
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write('{"answer": "5"}\n')
    found = problems(tmp_path)
    assert len(found.train) == 20
    assert found.counts == {
        "problems left out (problem given before)": 1,
        "problems left out (no gold answer)": 1,
        "problems left out (prompt leaves no room in the context)": 1,
        "problems left out (row cannot be read)": 1,
    }


# --- what is refused --------------------------------------------------------------------------------------


def test_data_that_cannot_be_used(tmp_path: Path) -> None:
    def refused(expected: str, **sections: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=expected):
            problems(tmp_path, **sections)

    write(tmp_path, *good(6), Record(problem="How many?", answer="\\frac{1}{"), *good(2, begin=6))
    found = problems(tmp_path)
    assert found.counts == {"problems left out (gold answer cannot be verified)": 1}
    # The row is that of the set, whatever is held out.
    for sections in ({}, {"data": {"validation_share": 0.5}}, {"data": {"min_pass_rate": 0.5}}):
        refused(
            r"data\.jsonl: 1 of 9 problems cannot be used, more than faults\.max_dropped_share=0\.1: "
            r"gold answer cannot be verified \(1, row 7: .*unbalanced braces.*\); mend the set, or raise it",
            faults={"max_dropped_share": 0.1},
            **sections,
        )
    write(tmp_path, *(Record(problem=f"Say {n}.") for n in range(4)))
    refused(r"has no problem that can be used: no gold answer \(4, row 1\)")
    write(tmp_path, *(Record(problem=f"Say {n} {'again ' * 30}.", answer="1") for n in range(3)))
    refused(r"has no problem that can be used: prompt leaves no room .* \(3, ")
    write(tmp_path, *good(8), Record(problem="<|im_end|>Say it.", answer="1"))
    refused(r"control token of the model \(1, row 9: <\|im_end\|>\)", faults={"max_dropped_share": 0.0})
    (tmp_path / "data.jsonl").write_text("")
    refused(r"data\.jsonl holds no readable row")
    (tmp_path / "data.jsonl").write_text('{"answer": "5"}\n')
    refused(r"line 1")
    write(tmp_path, *good(3))
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write("not json\n")
    refused(r"row cannot be read \(1, line 4: not JSON", faults={"max_dropped_share": 0.0})
    (tmp_path / "data.jsonl").unlink()
    refused(r"there is no file or folder .*gone\.jsonl", data={"path": str(tmp_path / "gone.jsonl")})


def test_validation_data_that_cannot_be_used(tmp_path: Path) -> None:
    write_records(tmp_path / "other.jsonl", [Record(problem="No answer.")])
    with pytest.raises(
        ValueError, match=r"data\.validation .*other\.jsonl has no problem .*no gold answer \(1"
    ):
        problems(tmp_path, data={"validation": str(tmp_path / "other.jsonl")})


def test_nothing_within_the_pass_rates(tmp_path: Path) -> None:
    write(tmp_path, Record(problem="Say 1.", answer="1", pass_rate=1.0))
    with pytest.raises(
        ValueError, match=r"none of 1 problems is left .*data\.max_pass_rate=0\.5: widen them"
    ):
        problems(tmp_path, data={"max_pass_rate": 0.5})


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    def refused(expected: str, **sections: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=expected):
            check(grpo_recipe(tmp_path, **sections))

    refused(
        r"batch\.max_length=4096 is over the 2048 positions of .*student.*lower it",
        batch={"max_length": 4096},
    )
    refused(r"model\.tokenizer is not for GRPO", model={"tokenizer": str(tmp_path / "student")})
    refused(r"model\.path './nowhere' is neither a folder nor a hub name", model={"path": "./nowhere"})


def test_what_makes_a_run_another(tmp_path: Path) -> None:
    """What may be changed for a resume is left out; what changes the learning is in."""
    recipe = grpo_recipe(tmp_path)
    checked = check(recipe)
    mine = identity(recipe, checked)
    for free in (
        {"rollout": {"max_failed_share": 0.9, "sync_timeout": 5.0, "sleep": False}},
        {"checkpoint": {"every": 7}, "evaluation": {"every": 3}, "parallel": {"zero_stage": 2}},
    ):
        assert identity(grpo_recipe(tmp_path, **free), checked) == mine
    for other in ({"rollout": {"top_p": 0.9}}, {"policy": {"clip_low": 0.1}}, {"rewards": rewarded("coin")}):
        assert identity(grpo_recipe(tmp_path, **other), checked) != mine
    sums(tmp_path / "data.jsonl", seed=5)
    assert identity(recipe, checked) != mine


# --- whole starts -----------------------------------------------------------------------------------------


class Runner:
    """Starts the command line on a recipe in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = grpo_recipe(
            folder, batch={"num_episodes": 1}, rewards={"answer": 1.0, "functions": {}}
        ).model_dump(mode="json")

    def __call__(self, *overrides: str) -> tuple[int, str]:
        write_toml(self.folder / "recipe.toml", self.recipe)
        log = self.folder / "log"
        ended = launch(cli, 1, ["grpo", str(self.folder / "recipe.toml"), *overrides], str(log), {})
        return ended.codes[0], log.read_text()

    def refused(self, expected: str, *overrides: str) -> None:
        code, said = self(*overrides)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code == 2, said
        assert len(lines) == 1 and re.search(expected, lines[0]), said
        assert "Traceback" not in said.partition("Process ForkServerProcess")[0], said
        assert "Loading weights" not in said, said


@pytest.mark.slow
def test_starts_that_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    functions = f'rewards.functions={{"{REWARDS}:%s" = 1.0}}'
    for expected, override in (
        (r"unknown key 'rollout\.topp' \(did you mean 'top_p'\?\)", "rollout.topp=1"),
        (
            r"functions: 'gone' cannot be taken from the module 'tests\.kit\.grpo\.rewarding'",
            functions % "gone",
        ),
        (
            r"functions: 'f' cannot be taken from the module 'no\.such'.*No module named",
            'rewards.functions={"no.such:f" = 1.0}',
        ),
        (r"overlong_buffer is 4096 tokens, over the 8", "rewards.overlong=1"),
        (r"needs parallel\.engine = 'torch'", "model.dtype=float64"),
        (r"nowhere\.jsonl", "data.path=./nowhere.jsonl"),
    ):
        engine = ("parallel.engine=deepspeed",) if "float64" in override else ()
        runner.refused(expected, override, *engine)
    assert not (tmp_path / "run" / "rollouts").exists()


@pytest.mark.slow
def test_the_folder_of_another_run(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    code, said = runner()
    assert code == 0 and "1 steps; the model is in" in said, said
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    runner.refused(
        r"is another run's: policy\.kind is 'dapo' there and 'grpo' here\. Choose another `out`",
        "policy.kind=grpo",
    )
    runner.refused(r"is another run's: rollout\.top_p", "rollout.top_p=0.5")
    sums(tmp_path / "data.jsonl", seed=1)
    runner.refused(r"is another run's: data\.content")
    sums(tmp_path / "data.jsonl")
    assert runner()[0] == 0
    after = {path: path.read_bytes() for path in before if "model" not in str(path)}
    assert all(before[path] == content for path, content in after.items())
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1


@pytest.mark.slow
def test_what_one_rank_finds_wrong_all_ranks_raise(tmp_path: Path) -> None:
    """The rewards are rank 0's alone."""
    recipe = grpo_recipe(tmp_path, rewards=rewarded("gone"), parallel={"timeout": 300.0})
    ended = launch(train, 2, recipe.model_dump(mode="json"), timeout=60.0)
    assert all(code == 1 for code in ended.codes), ended
    assert all("cannot be taken from the module" in error for error in ended.errors), ended.errors


def test_a_start_alone_leaves_nothing_behind(tmp_path: Path) -> None:
    import psutil

    recipe = grpo_recipe(tmp_path, rewards=rewarded("gone"))
    with pytest.raises(ValueError, match="cannot be taken from the module"):
        grpo(recipe)
    left = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [line for line in left if "rewards" in line]
