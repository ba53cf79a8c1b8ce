import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kit.data.__main__ import app
from kit.data.clean import CARD_DATA_FILE, CARD_FILE, RECIPE_FILE, RECORDS_FILE, clean, preview
from kit.data.recipe import DataRecipe
from kit.data.records import Record, TopK, read_records, write_records
from kit.data.sources import Source

RECIPES = sorted((Path(__file__).resolve().parents[3] / "kit" / "recipes").glob("data_*.toml"))
TEST_PROBLEM = (
    "How many ways are there to seat 7 people around a circular table if two of them refuse to sit together?"
)
ROWS: list[dict[str, Any]] = [
    {"problem": "What is 1 + 1?", "answer": "2", "solution": "It is \\boxed{2}."},
    {"problem": "What is  1+1 ?", "answer": "2", "solution": "Two: \\boxed{2}."},
    {"problem": "What is 2 + 2?", "answer": "4", "solution": "It is \\boxed{5}. `|` | <b>"},
    {"problem": TEST_PROBLEM, "answer": "480", "solution": "\\boxed{480}"},
    {"problem": "What is 3 + 3?", "answer": "6", "solution": "It is \\boxed{6}."},
    {"problem": None},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    (folder / "test.jsonl").write_text(json.dumps({"problem": TEST_PROBLEM}))
    return folder


def recipe(data: Path, **changes: Any) -> DataRecipe:
    settings = {
        "out": str(data.parent / "out"),
        "root": str(data),
        "sources": {"sums": {"path": "train.jsonl", "licence": "MIT", "teacher": "me"}},
        "contamination": {"against": {"seats": {"path": "test.jsonl"}}},
        **changes,
    }
    return DataRecipe.parse(settings, "the test")


def test_the_whole_way(data: Path) -> None:
    made = recipe(data)
    card = clean(made)
    records = list(read_records(made.out / RECORDS_FILE))
    assert [record.problem for record in records] == ["What is 1 + 1?", "What is 3 + 3?"]
    assert {(record.correct, record.licence, record.teacher, record.source) for record in records} == {
        (True, "MIT", "me", "sums")
    }
    assert [(step.name, step.before, step.kept) for step in card.steps] == [
        ("length", 5, 5),
        ("language", 5, 5),
        ("verify", 5, 4),
        ("duplicates", 4, 3),
        ("contamination", 3, 2),
    ]
    assert card.sources[0].unreadable_reasons == {"the problem is empty": 1}
    assert card.held_out == {"seats": 1}
    assert json.loads((made.out / CARD_DATA_FILE).read_text()) == card.model_dump(mode="json")


def test_the_card_says_what_was_dropped_and_why(data: Path) -> None:
    made = recipe(data)
    clean(made)
    text = (made.out / CARD_FILE).read_text()
    assert "| verify | 5 | 4 | 1 | 20.00% |" in text
    assert "**wrong answer**: 1" in text
    assert "- `sums` `What is 2 + 2?` (`'5', gold '4'`)" in text
    assert "| `sums` | `train.jsonl` | `train` | `MIT` | 5 | 5 | 1 |" in text
    assert "Kept, by source: `sums` 2" in text
    assert "seats (test.jsonl)" in text


def test_hostile_text_stays_in_its_code_span(data: Path) -> None:
    (data / "train.jsonl").write_text(
        json.dumps({"problem": "a `b` | c\n# d \u202e e", "answer": "1", "solution": "\\boxed{2}"})
        + "\n"
        + json.dumps(ROWS[0])
    )
    made = recipe(data, steps=["verify"])
    clean(made)
    assert "- `sums` `a 'b' | c # d e`" in (made.out / CARD_FILE).read_text()


def test_the_same_recipe_gives_the_same_bytes(data: Path) -> None:
    made = recipe(data)
    clean(made)
    first = {path.name: path.read_bytes() for path in made.out.iterdir()}
    assert first.keys() == {RECIPE_FILE, RECORDS_FILE, CARD_FILE, CARD_DATA_FILE}
    clean(made)
    assert {path.name: path.read_bytes() for path in made.out.iterdir()} == first
    shutil.rmtree(made.out)
    (made.out).mkdir()
    clean(made)
    assert {path.name: path.read_bytes() for path in made.out.iterdir()} == first


def test_another_result_is_not_overwritten(data: Path) -> None:
    made = recipe(data)
    clean(made)
    with pytest.raises(ValueError, match="result of another recipe"):
        clean(recipe(data, verify={"timeout": 3}))
    (made.out / RECIPE_FILE).unlink()
    with pytest.raises(ValueError, match="holds other files"):
        clean(made)


def test_a_step_that_leaves_nothing_is_named(data: Path) -> None:
    made = recipe(data, length={"min_problem": 10_000})
    with pytest.raises(ValueError, match=r"step 'length' left none of 5 records \(problem too short: 5\)"):
        clean(made)
    assert not made.out.exists()


def test_a_missing_test_set_ends_it_before_the_work(data: Path) -> None:
    seen: list[str] = []

    def watch(title: str, _total: int | None) -> Any:
        seen.append(title)
        return lambda: None

    made = recipe(data, contamination={"against": {"x": {"path": "none.jsonl"}}})
    with pytest.raises(ValueError, match=r"there is no file .*data/none\.jsonl; `root` in the recipe"):
        clean(made, watch)
    assert seen == ["reading test sets"]


def test_cached_logits_are_found_from_the_new_folder(data: Path) -> None:
    (data / "traces").mkdir()
    (data / "traces" / "top.safetensors").write_bytes(b"x")
    record = Record(problem="p", completion="c", topk=TopK(file="top.safetensors", row=3))
    write_records(data / "traces" / "t.jsonl", [record])
    made = recipe(data, sources={"own": {"path": "traces/t.jsonl"}}, steps=["duplicates"])
    clean(made)
    (kept,) = read_records(made.out / RECORDS_FILE)
    assert kept.topk is not None
    assert kept.topk.row == 3
    assert (made.out / kept.topk.file).read_bytes() == b"x"


def test_ticks_count_every_record(data: Path) -> None:
    counts: dict[str, int] = {}

    def watch(title: str, _total: int | None) -> Any:
        counts[title] = 0
        return lambda: counts.update({title: counts[title] + 1})

    clean(recipe(data), watch)
    assert counts == {
        "reading test sets": 0,
        "reading sums": 5,
        "length": 5,
        "language": 5,
        "verify": 5,
        "duplicates": 4,
        "contamination": 3,
    }


def test_preview_reads_no_more_than_it_shows(data: Path) -> None:
    made = recipe(data)
    shown = dict(preview(made))
    assert [record.problem for record in shown["sums"]] == [row["problem"] for row in ROWS[:3]]
    assert len(shown["test set seats"]) == 1
    assert not made.out.exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": ["verify", "verify"]}, "names 'verify' twice"),
        ({"steps": ["contamination"], "contamination": {}}, "has no test set"),
        ({"sources": {}}, "at least 1 item"),
        ({"steps": ["wash"]}, "steps.0: Input should be 'length', 'language'"),
        ({"verify": {"timeot": 1}}, r"unknown key 'verify.timeot' \(did you mean 'timeout'\?\)"),
    ],
)
def test_recipes_that_cannot_work(data: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        recipe(data, **changes)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    made = DataRecipe.load(path)
    assert made.contamination.against
    assert all(source.licence for source in made.sources.values())


def test_there_are_shipped_recipes() -> None:
    assert {path.stem for path in RECIPES} == {"data_bespoke", "data_math", "data_openr1"}


def test_a_source_is_found_under_the_root_first(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    assert Source(path="train.jsonl").located(data) == str(data / "train.jsonl")
    assert Source(path="openai/gsm8k:main").located(data) == "openai/gsm8k:main"


def test_help_lists_every_setting_of_every_step() -> None:
    shown = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for setting in ("same_numbers=True", "overlap=0.6", "timeout=5.0", "unknown='keep'", "min_letters=60"):
        assert setting in shown


def test_command(data: Path) -> None:
    toml = data / "r.toml"
    toml.write_text(f'root = "{data}"\n[sources.sums]\npath = "train.jsonl"\n')
    out = data.parent / "made"
    arguments = [str(toml), f"out={out}", "steps=['verify']"]
    dry = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "sums: readable; first problem 'What is 1 + 1?' with answer, completion" in dry.output
    assert not out.exists()
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "4 records of 4 problems" in done.output
    assert len(list(read_records(out / RECORDS_FILE))) == 4


@pytest.mark.slow
def test_the_shipped_recipe_on_real_data(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("math/train_7474.json").parents[1]
    path = next(path for path in RECIPES if path.stem == "data_math")
    card = clean(DataRecipe.load(path, [f"root={root}", f"out={tmp_path / 'out'}"]))
    before = sum(source.records for source in card.sources)
    assert before == 15_922
    assert 15_400 < card.records < 15_600
    steps = {step.name: step for step in card.steps}
    assert steps["contamination"].before - steps["contamination"].kept < 60
    assert sum(steps["verify"].reasons.values()) == 6
