"""Problem sets: formats, rules of answers, and what is refused before anything is played."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from benchmarks.run.durations import parse_duration, spell_duration
from benchmarks.run.sets import (
    SetSpec,
    contest_gold,
    drawn,
    integers_only,
    load_catalogue,
    load_set,
)

SharedData = Callable[[str], Path]
ROWS: list[dict[str, object]] = [
    {"id": "h", "problem": "One half?", "answer": "\\frac{1}{2}"},
    {"id": "a", "problem": "1+1?", "answer": "2"},
    {"id": "b", "problem": "10^5?", "answer": "100000"},
]


def write(path: Path, rows: list[dict[str, object]]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        pl.DataFrame(rows).write_csv(path)
    else:
        pl.DataFrame(rows).write_parquet(path)
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_own_files_of_every_kind_are_one_set(tmp_path: Path, suffix: str) -> None:
    found = load_set(write(tmp_path / f"own{suffix}", ROWS), {}, None)
    assert [item.id for item in found.items] == ["h", "a", "b"]
    assert [item.gold.integer for item in found.items] == [None, 2, 100_000]
    assert found.name == "own" and found.left_out == 0
    other = load_set(write(tmp_path / f"other{suffix}", [*ROWS[:2], ROWS[2] | {"answer": "1"}]), {}, None)
    assert other.digest != found.digest


def test_a_contest_asks_integers_of_its_range(tmp_path: Path) -> None:
    found = load_set(write(tmp_path / "own.jsonl", ROWS), {}, None)
    with pytest.raises(ValueError, match=r"2 of 3 gold answers are not integers from 0 to 99999 .*'h'"):
        integers_only(found, 0, 99_999, leave_out=False)
    kept = integers_only(found, 0, 99_999, leave_out=True)
    assert [item.id for item in kept.items] == ["a"] and kept.left_out == 2
    with pytest.raises(ValueError, match="no gold answer is an integer from 5 to 6"):
        integers_only(found, 5, 6, leave_out=True)
    assert [one.answer for one in found.problems(0, 99_999)] == [None, 2, None]


@pytest.mark.parametrize(
    ("spec", "row", "message"),
    [
        (SetSpec(), {"problem": "x?"}, "no column 'answer'"),
        (SetSpec(), {"text": "x?", "answer": "1"}, "no column 'problem' or 'question'"),
        (SetSpec(problem="text"), {"problem": "x?", "answer": "1"}, "no column 'text'"),
        (SetSpec(), {"problem": "x?", "answer": ""}, "is empty"),
        (SetSpec(), {"problem": "x?", "answer": "nan"}, "missing value"),
        (SetSpec(), {"problem": " ", "answer": "1"}, "the problem is empty"),
        (SetSpec(), {"problem": "x" * 60_000, "answer": "1"}, "60,000 characters"),
        (SetSpec(), {"problem": ["a", "b"], "answer": "1"}, "holds a list"),
        (SetSpec(rule="integer"), {"problem": "x?", "answer": "1/2"}, "'1/2' is not an integer"),
        (SetSpec(rule="integer", low=0, high=9), {"problem": "x?", "answer": "10"}, "from 0 to 9"),
        (SetSpec(rule="hash"), {"problem": "x?", "answer": "so #### one"}, "not an integer"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, spec: SetSpec, row: dict[str, object], message: str) -> None:
    path = tmp_path / "s.jsonl"
    write(path, [{"problem": "1?", "text": "1?", "answer": "1"}, row])
    with pytest.raises(ValueError, match=r"set s, line 2: .*" + message.replace("'", ".")):
        load_set("s", {"s": spec.model_copy(update={"path": str(path)})}, None)


def test_sets_that_are_not_there(tmp_path: Path) -> None:
    known = load_catalogue()
    with pytest.raises(ValueError, match="no problem set 'aime26'; known: aime24, aime25"):
        load_set("aime26", known, None)
    with pytest.raises(ValueError, match="there is no file"):
        load_set(str(tmp_path / "none.csv"), known, None)
    with pytest.raises(ValueError, match=r"set aimo3 is on no hub.*--data"):
        load_set("aimo3", known, tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no problems"):
        load_set(str(tmp_path / "empty.jsonl"), known, None)
    twice = write(tmp_path / "twice.jsonl", [ROWS[0], ROWS[0]])
    with pytest.raises(ValueError, match="id 'h' was used before"):
        load_set(twice, known, None)


def test_an_own_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "sets.toml"
    path.write_text(f'[mine]\npath = "{write(tmp_path / "m.csv", ROWS)}"\nanswer = "answer"\n')
    assert len(load_set("mine", load_catalogue(path), None).items) == 3
    path.write_text("[mine]\nrules = 3\n")
    with pytest.raises(ValueError, match="rules"):
        load_catalogue(path)
    path.write_text("[mine\n")
    with pytest.raises(ValueError, match="cannot be read"):
        load_catalogue(path)


def test_solutions_stand_for_answers_and_hashes_for_numbers(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"question": "3 * 400?", "answer": "It is <<3*400=1200>>.\n#### 1,200"}]
    path = write(tmp_path / "g.jsonl", rows)
    found = load_set("g", {"g": SetSpec(path=path, rule="hash")}, None)
    assert found.items[0].gold.integer == 1200 and found.items[0].id == "1"
    path = write(tmp_path / "m.jsonl", [{"problem": "?", "solution": "So much text. " * 20 + "\\boxed{3}"}])
    assert load_set(path, {}, None).items[0].gold.integer == 3


def test_drawn_problems_keep_their_order(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"problem": f"{n}?", "answer": n} for n in range(30)]
    found = load_set(write(tmp_path / "n.jsonl", rows), {}, None)
    some = drawn(found, 5, seed=1)
    assert some == drawn(found, 5, seed=1) != drawn(found, 5, seed=2)
    numbers = [int(item.id) for item in some.items]
    assert len(numbers) == 5 and numbers == sorted(numbers)
    assert drawn(found, 99, seed=1) is found


@pytest.mark.parametrize(
    ("name", "file", "count", "integers"),
    [
        ("aime24", "aime/aime24.jsonl", 30, 30),
        ("aime25", "aime/aime25.jsonl", 30, 30),
        ("math500", "math/math500.jsonl", 500, 314),
        ("gsm8k", "gsm8k/test.jsonl", 1319, 1299),
        ("aimo3", "aimo3/reference.csv", 10, 10),
    ],
)
def test_the_real_sets(shared_data: SharedData, name: str, file: str, count: int, integers: int) -> None:
    path = shared_data(file)
    found = load_set(name, load_catalogue(), path.parent.parent)
    assert len(found.items) == count
    assert sum(contest_gold(item.gold, 0, 99_999) is not None for item in found.items) == integers


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300m", 18_000), ("5h", 18_000), ("90s", 90), ("90", 90), ("1h30m", 5_400), ("1.5H", 5_400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5x", "m", "-3s", "0", "nan", "inf", "1h x", "9999h"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_durations_are_spelled() -> None:
    assert [spell_duration(s) for s in (12.4, 185, 120, 15_000, 7_200)] == [
        "12 s", "3 min 5 s", "2 min", "4 h 10 min", "2 h",
    ]  # fmt: skip
