"""Step-labelled sets: what a row of each becomes, and what a broken one is refused for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.data.labelled import LabelledSolution, write_labelled
from kit.data.readers import Unreadable, read_labelled
from kit.data.shapes import RowError
from kit.data.step_shapes import Reading, recognise_steps


def converted(row: dict[str, Any], neutral: float | None = 1.0, labels: Any = "hard") -> list[Any]:
    return list(recognise_steps(row, Reading(neutral, labels))(row))


def test_process_bench() -> None:
    row = {"id": "gsm8k-0", "problem": "p", "steps": ["a", "b", "c", "d"], "label": 1}
    (fields,) = converted(row)
    assert fields["labels"] == [1.0, 0.0, None, None]
    assert fields["id"] == "gsm8k-0"
    assert converted({**row, "label": -1})[0]["labels"] == [1.0] * 4
    assert converted({**row, "label": 0})[0]["labels"] == [0.0, None, None, None]


@pytest.mark.parametrize("label", [4, -2, True, "1", None])
def test_process_bench_with_another_label(label: Any) -> None:
    with pytest.raises(RowError, match="neither -1 nor the index of one of 4 steps"):
        converted({"problem": "p", "steps": ["a", "b", "c", "d"], "label": label})


def test_math_shepherd() -> None:
    text = "Janet has 3 ducks. How many? Step 1: She has 3. ки\nStep 2: The answer is: 4 ки"
    label = "Janet has 3 ducks. How many? Step 1: She has 3. +\nStep 2: The answer is: 4 -"
    (fields,) = converted({"input": text, "label": label, "task": "GSM8K"})
    assert fields == {
        "problem": "Janet has 3 ducks. How many?",
        "steps": ["Step 1: She has 3.", "Step 2: The answer is: 4"],
        "labels": [1.0, 0.0],
    }


@pytest.mark.parametrize(
    ("text", "label", "reason"),
    [
        ("p Step 1: a", "p Step 1: a", "there is no 'ки'"),
        ("p Step 1: a ки\nStep 2: b", "p Step 1: a +\nStep 2: b", "last step does not end"),
        ("p Step 1: a ки", "p Step 1: b +", "differ in step 1"),
        ("p Step 1: a ки", "p Step 1: a ?", "neither [+] nor -"),
        ("p. First a ки", "p. First a +", "nothing begins with 'Step 1:'"),
    ],
)
def test_broken_math_shepherd(text: str, label: str, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        converted({"input": text, "label": label})


def completion(text: str, rating: int | None) -> dict[str, Any]:
    return {"text": text, "rating": rating, "flagged": False}


def prm800k(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"question": {"problem": "p"}, "label": {"steps": list(turns), "finish_reason": "solution"}}


def turn(*completions: dict[str, Any], chosen: int | None = 0, human: str = "") -> dict[str, Any]:
    written = {"text": human, "rating": None} if human else None
    return {"completions": list(completions), "human_completion": written, "chosen_completion": chosen}


def test_prm800k_follows_what_was_chosen() -> None:
    row = prm800k(
        turn(completion("a", 1)),
        turn(completion("wrong", -1), completion("b", 0), chosen=1),
        turn(completion("bad", -1), chosen=None),
    )
    main, other = converted(row)
    assert (main["steps"], main["labels"]) == (["a", "b", "bad"], [1.0, 1.0, 0.0])
    assert (other["steps"], other["labels"]) == (["a", "wrong"], [None, 0.0])
    assert converted(row, None)[0]["labels"] == [1.0, None, 0.0]
    assert converted(row, 0.0)[0]["labels"] == [1.0, 0.0]  # a neutral step that counts as wrong ends it


def test_prm800k_with_a_step_written_by_hand() -> None:
    row = prm800k(
        turn(completion("x", -1), completion("y", -1), chosen=None, human="a"), turn(completion("b", 1))
    )
    main, *others = converted(row)
    assert (main["steps"], main["labels"]) == (["a", "b"], [1.0, 1.0])
    assert [(one["steps"], one["labels"]) for one in others] == [(["x"], [0.0]), (["y"], [0.0])]


def test_prm800k_ends_where_nothing_was_chosen() -> None:
    row = prm800k(
        turn(completion("a", 1)), turn(completion("x", 1), completion("y", None), chosen=None), turn()
    )
    main, *others = converted(row)
    assert (main["steps"], main["labels"]) == (["a"], [1.0])
    assert [(one["steps"], one["labels"]) for one in others] == [(["a", "x"], [None, 1.0])]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (prm800k(), "is not PRM800K's"),
        (prm800k(turn(completion("a", 7))), "none of -1, 0, 1 and null"),
        (prm800k(turn(completion("a", 1), chosen=3)), "chosen_completion '3' is not one of 1"),
        (prm800k(turn(completion("a", None))), "no step has a rating"),
        ({"question": "q", "label": {"steps": [1]}}, "is not PRM800K's"),
    ],
)
def test_broken_prm800k(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        converted(row)


def test_prm_bench_counts_from_one() -> None:
    row = {
        "question": "p",
        "original_question": "p",
        "modified_question": "p'",
        "original_process": ["a", "b"],
        "modified_process": ["a", "x", "c"],
        "error_steps": [2],
        "idx": "circular_1",
    }
    modified, original = converted(row)
    assert (modified["problem"], modified["labels"]) == ("p'", [1.0, 0.0, 1.0])
    assert (original["problem"], original["labels"]) == ("p", [1.0, 1.0])
    assert original["id"] == "circular_1/original"
    for wrong in ([0], [4], ["1"], None):
        with pytest.raises(RowError, match="not numbers from 1 to 3"):
            converted({**row, "error_steps": wrong})


def test_monte_carlo_labels() -> None:
    row = {
        "problem": "p",
        "steps": ["a", "b", "c"],
        "labels": [1, 1, 0],
        "soft": [0.5, None, 0.0],
        "estimates": [0.45, 0.3, 0.02],
        "first_error": 2,
        "model": "m",
    }
    for labels, expected in (("hard", [1, 1, 0]), ("soft", [0.5, 1, 0.0]), ("estimates", [0.45, 0.3, 0.02])):
        (fields,) = converted(row, labels=labels)
        assert (fields["labels"], fields["first_error"]) == (expected, 2)
    with pytest.raises(RowError, match="'soft' is no list of as many labels as steps"):
        converted({**row, "soft": [0.5]}, labels="soft")
    (fields,) = converted({"problem": "p", "steps": ["a"], "labels": [1]}, labels="soft")
    assert fields["labels"] == [1]


def test_unknown_columns_are_named() -> None:
    with pytest.raises(RowError, match="columns text are those of no known set of step labels"):
        converted({"text": "x"})


# --- files -------------------------------------------------------------------------------------------------


def test_own_format_goes_there_and_back(tmp_path: Path) -> None:
    records = [
        LabelledSolution(problem="p", steps=("a", "b"), labels=(0.25, None), source="s", id="1"),
        LabelledSolution(problem="q", steps=("c",), labels=(1.0,), source="s"),
    ]
    assert write_labelled(tmp_path / "steps.jsonl", records) == 2
    assert list(read_labelled(str(tmp_path / "steps.jsonl"))) == records


def test_broken_rows_are_counted_with_their_place(tmp_path: Path) -> None:
    good = {"problem": "p", "steps": ["a", "b"], "labels": [1, 0]}
    rows = [
        good,
        {**good, "labels": [1]},
        {**good, "labels": [1, 1.5]},
        {**good, "steps": ["a", " "]},
        {**good, "steps": "ab"},
        {**good, "problem": ""},
        {**good, "labels": [1, float("nan")]},
    ]
    path = tmp_path / "steps.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "{"]))
    lost: list[Unreadable] = []
    (record,) = read_labelled(str(path), name="mine", unreadable=lost)
    assert (record.labels, record.source) == ((1.0, 0.0), "mine")
    assert [one.place for one in lost] == [f"line {number}" for number in range(2, 9)]
    reasons = " | ".join(one.reason for one in lost)
    for part in (
        "2 steps but 1 labels",
        "less than or equal to 1",
        "step 2 of 2 is empty",
        "no list of texts",
    ):
        assert part in reasons


def test_a_set_without_one_good_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"problem": "p", "steps": ["a"], "labels": []}\n')
    with pytest.raises(ValueError, match=r"no readable row .*line 1: 1 steps but 0 labels"):
        list(read_labelled(str(path)))


@pytest.mark.parametrize(("name", "count"), [("gsm8k", 400), ("math", 1000)])
def test_real_process_bench(shared_data: Callable[[str], Path], name: str, count: int) -> None:
    lost: list[Unreadable] = []
    path = shared_data(f"processbench/{name}.json")
    records = list(read_labelled(str(path), unreadable=lost))
    assert (len(records), lost) == (count, [])
    rows = json.loads(path.read_text())
    for record, row in zip(records, rows, strict=True):
        wrong = record.labels.index(0.0) if 0.0 in record.labels else -1
        assert wrong == row["label"]
        assert list(record.steps) == row["steps"]
