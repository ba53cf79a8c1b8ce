"""Which stages run: new ones, those whose inputs have changed, whose output is gone, and all behind them."""

import json
from pathlib import Path
from typing import Any

import pytest

from kit.launch.pipeline import Pipeline, tasks_of
from kit.launch.skipping import Choice, choose
from kit.launch.stages import Begun, Done, StageFolder, put_aside
from kit.launch.tasks import Task
from tests.kit.launch.made import make_place

ROOT = Path(__file__).parents[3]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three stages in a row and one beside them; the code is in `code`."""
    make_place(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("__init__", "first", "second", "third"):
        (tmp_path / "code" / "kit" / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / "kit" / f"{name}.py").write_text("")
    (tmp_path / "input.txt").write_text("1")
    return tmp_path


def load(**more: Any) -> list[Task]:
    def command(name: str, *words: str) -> list[str]:
        return ["python", "-m", f"kit.{name}", "--out", "${out}", *words]

    stages: dict[str, Any] = {
        "first": {"command": command("first", "--in=input.txt")},
        "second": {"command": command("second", "${first}/made"), "after": ["first"]},
        "third": {"command": command("third", "${stages}"), "after": ["second"]},
        "train": {"phase": "distill", "recipe": "distill.toml"},
    }
    for name, changes in more.items():
        stages[name] = {**stages[name], **changes}
    return tasks_of(Pipeline.parse({"out": "runs/p", "stages": stages}, "here"))


def chosen(tasks: list[Task] | None = None, *, fresh: bool = False) -> Choice:
    return choose(tasks or load(), Path("runs/p"), Path("code"), fresh=fresh)


def play(choice: Choice) -> dict[str, str]:
    """Run what was chosen as jobs do; what is said of each stage."""
    StageFolder(Path("runs/p")).plan(choice.plan)
    for task in choice.tasks:
        assert task.stage is not None
        with task.stage.recorded():
            folder = task.out / task.stage.keep
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "made").write_text("made")
    return dict(choice.why)


def test_what_has_succeeded_is_not_run_again(place: Path) -> None:
    assert play(chosen()) == dict.fromkeys(("first", "train", "second", "third"), "is new")
    again = chosen()
    assert again.tasks == () and set(again.skipped) == {"first", "second", "third", "train"}
    assert play(chosen(fresh=True)) == dict.fromkeys(("first", "train", "second", "third"), "--fresh")
    assert chosen().tasks == ()


def test_a_stage_waits_only_for_those_that_run(place: Path) -> None:
    play(chosen())
    (place / "code" / "kit" / "third.py").write_text("x = 1\n")
    (task,) = chosen().tasks
    assert (task.name, task.after) == ("third", ())
    assert task.stage is not None and task.stage.after == ("second",)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        (
            "input.txt",
            "2",
            {
                "first": "changed: file input.txt",
                "second": "comes after first",
                "third": "comes after second",
            },
        ),
        ("code/kit/second.py", "x = 1\n", {"second": "changed: code", "third": "comes after second"}),
        (
            "runs/p/second/made",
            "cut",
            {"second": "made is not as it was left", "third": "comes after second"},
        ),
        ("runs/p/train/model/made", "cut", {"train": "model/made is not as it was left"}),
        ("data.jsonl", '{"problem": "2+1?"}\n', {"train": "changed: file data.jsonl"}),
        ("runs/p/train/checkpoints", "may be gone", {}),
        ("kit/recipes/other.toml", "", {}),
    ],
)
def test_only_what_depends_on_a_change_runs_again(
    place: Path, name: str, text: str, why: dict[str, str]
) -> None:
    play(chosen())
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(text)
    assert dict(chosen().why) == why
    play(chosen())
    assert chosen().tasks == ()


def test_settings_of_command_and_recipe_count_and_places_do_not(place: Path) -> None:
    play(chosen())
    words = ["python", "-m", "kit.second", "--out", "${out}", "${first}/made", "--more"]
    assert dict(chosen(load(second={"command": words})).why) == {
        "second": "changed: settings",
        "third": "comes after second",
    }
    assert dict(chosen(load(train={"overrides": ["lr=1e-3"]})).why) == {"train": "changed: settings"}
    # The same value in other words, other resources, and a comment in the recipe.
    (place / "distill.toml").write_text((place / "distill.toml").read_text() + "# said\n")
    same = {"overrides": ["optimizer.lr=0.000005"], "time": "3h", "gpus_per_node": 4, "nodes": 2}
    assert dict(chosen(load(train=same)).why) == {}
    (place / "runs" / "p").rename(place / "runs" / "q")
    stages = Pipeline.parse(
        {"out": "runs/q", "stages": {"first": {"command": list(load()[0].command)}}}, "here"
    ).stages["first"]
    moved = [word.replace("runs/p", "runs/q") for word in stages.command]
    tasks = tasks_of(Pipeline.parse({"out": "runs/q", "stages": {"first": {"command": moved}}}, "here"))
    assert choose(tasks, Path("runs/q"), Path("code")).tasks == ()


def test_a_word_may_be_a_text_too_long_to_name_a_file(place: Path) -> None:
    said = {"command": ["python", "-m", "kit.third", "--note", "said. " * 100]}
    play(chosen(load(third=said)))
    assert chosen(load(third=said)).tasks == ()
    said["command"][-1] += "More."
    assert [task.name for task in chosen(load(third=said)).tasks] == ["third"]


def test_what_was_stopped_goes_on_and_what_others_made_is_put_aside(place: Path) -> None:
    first = next(task for task in chosen().tasks if task.name == "first")
    assert first.stage is not None
    with pytest.raises(KeyboardInterrupt), first.stage.recorded():
        first.out.mkdir(parents=True)
        (first.out / "half").write_text("")
        raise KeyboardInterrupt
    again = chosen()
    assert again.why["first"] == "goes on"
    first = next(task for task in again.tasks if task.name == "first")
    assert first.stage is not None
    with first.stage.recorded():
        assert (first.out / "half").exists()
    (place / "input.txt").write_text("2")
    play(chosen())
    assert not (first.out / "half").exists()
    (aside,) = first.out.parent.glob("first.before-*")
    assert (aside / "half").exists()


def test_a_stage_runs_again_when_one_before_it_did_so_with_the_same_inputs(place: Path) -> None:
    play(chosen())
    folder = StageFolder(Path("runs/p"))
    done = folder.done("first")
    assert done is not None
    folder.keep("first", done.model_copy(update={"finished": "later"}))
    assert dict(chosen().why) == {"second": "first has run since", "third": "comes after second"}


def test_a_torn_record_is_none_and_a_folder_that_holds_others_is_not_moved(place: Path) -> None:
    play(chosen())
    record = place / "runs" / "p" / "launch" / "stages" / "third.json"
    record.write_text(record.read_text()[:50])
    assert chosen().why["third"] == "goes on"
    with pytest.raises(ValueError, match="give the stage its own `out`"):
        put_aside(place / "runs", (place / "runs" / "p",))
    assert put_aside(place / "nothing", ()) is None


def test_what_finished_is_told_with_its_cost(place: Path) -> None:
    play(chosen())
    (place / "code" / "kit" / "third.py").write_text("x = 1\n")
    choice = chosen()
    shown = StageFolder(Path("runs/p"))
    shown.plan(choice.plan)
    before = json.loads(shown.shown.read_text())
    assert [stage["name"] for stage in before["stages"]] == ["first", "train", "second"]
    play(choice)
    told = json.loads(shown.shown.read_text())
    assert {stage["name"]: stage["skipped"] for stage in told["stages"]} == {
        "first": True,
        "train": True,
        "second": True,
        "third": False,
    }
    (second,) = [stage for stage in told["stages"] if stage["name"] == "second"]
    assert second["after"] == ["first"] and second["out"] == str(place / "runs" / "p" / "second")
    assert second["command"] == "python -m kit.second --out runs/p/second runs/p/first/made"
    assert second["cpu_seconds"] >= 0 and 0 <= second["seconds"] <= told["seconds"] + 60
    # A stage of a phase whose ranks ran under srun has no CPU-seconds.
    alone = {
        task.name: task.stage.alone for task in choose(load(), Path("new"), Path("code")).tasks if task.stage
    }
    assert alone == {"first": True, "second": True, "third": True, "train": False}


def test_seconds_of_starts_that_were_stopped_are_counted(place: Path) -> None:
    first = chosen().tasks[0]
    assert first.stage is not None
    folder = StageFolder(Path("runs/p"))
    with pytest.raises(SystemExit), first.stage.recorded():
        raise SystemExit(85)
    begun = folder.begun(first.name)
    assert isinstance(begun, Begun) and begun.seconds > 0
    folder.keep(first.name, begun.model_copy(update={"seconds": 100.0, "cpu_seconds": 50.0}))
    with first.stage.recorded():
        pass
    done = folder.done(first.name)
    assert isinstance(done, Done) and 100 <= done.seconds < 110 and done.started == begun.started
    assert done.cpu_seconds is not None and 50 <= done.cpu_seconds < 60
