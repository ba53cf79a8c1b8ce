from typing import Any

import pytest

from kit.data.records import Record
from kit.data.shapes import RowError, answer_in, from_markers, recognise, text_of

THOUGHT = (
    "<|begin_of_thought|>\n\n1 and 1.\n\n<|end_of_thought|>\n\n"
    "<|begin_of_solution|>\n\n\\boxed{2}\n\n<|end_of_solution|>"
)


def converted(row: dict[str, Any]) -> list[Any]:
    return list(recognise(row).convert(row))


def test_bespoke_stratos() -> None:
    row = {
        "system": "Think long.",
        "conversations": [{"from": "user", "value": "1 + 1?"}, {"from": "assistant", "value": THOUGHT}],
    }
    (fields,) = converted(row)
    assert fields["system"] == "Think long."
    assert fields["problem"] == "1 + 1?"
    assert fields["completion"] == "<think>\n1 and 1.\n</think>\n\n\\boxed{2}"
    assert fields["answer"] == ""  # never from the model's own completion


def test_roles_of_the_older_form() -> None:
    (fields,) = converted({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})
    assert (fields["problem"], fields["completion"]) == ("q", "a")


def test_a_solution_without_markers_follows_the_thought() -> None:
    assert from_markers("<|begin_of_thought|>t<|end_of_thought|> s") == "<think>\nt\n</think>\n\ns"
    assert from_markers("plain") == "plain"


def test_a_thought_cut_off_is_an_error() -> None:
    with pytest.raises(RowError, match="not closed"):
        from_markers("<|begin_of_thought|> for ever")


def test_numina() -> None:
    (fields,) = converted(
        {"source": "olympiads", "problem": "p", "solution": "so \\boxed{\\frac{1}{2}}.", "messages": []}
    )
    assert fields["answer"] == r"\frac{1}{2}"
    assert fields["subset"] == "olympiads"
    assert fields["completion"].startswith("so")


def test_open_r1_gives_a_record_a_generation() -> None:
    row = {
        "problem": "p",
        "solution": "long",
        "answer": "4",
        "messages": [],
        "generations": ["<think>a</think> 4", "b", "cut"],
        "correctness_math_verify": [True, False, False],
        "is_reasoning_complete": [True, True, False],
    }
    first, second, third = converted(row)
    assert (first["completion"], first["correct"], first["attempt"]) == ("<think>a</think> 4", True, 0)
    assert (second["correct"], second["attempt"]) == (False, 1)
    assert first["pass_rate"] == second["pass_rate"] == 1 / 3
    assert isinstance(third, RowError)
    assert "cut off" in str(third)


def test_open_r1_without_verdicts() -> None:
    (fields,) = converted({"problem": "p", "generations": ["a"], "correctness_math_verify": None})
    assert fields["correct"] is None
    assert fields["pass_rate"] is None


def test_gsm8k() -> None:
    row = {"question": "q", "answer": "She sold 48/2 = <<48/2=24>>24 clips.\n#### 1,024"}
    (fields,) = converted(row)
    assert fields["answer"] == "1,024"
    assert fields["completion"] == "She sold 48/2 = 24 clips.\nThe final answer is $\\boxed{1,024}$."


def test_bare_answers_have_no_completion() -> None:
    (fields,) = converted({"id": "0", "question": "q", "answer": 70.0})
    assert fields["answer"] == "70"
    assert "completion" not in fields


def test_the_models_answer_is_not_taken_for_gold() -> None:
    (fields,) = converted(
        {"problem": "p", "solution": "s \\boxed{3}", "answer": "3", "ground_truth": "4", "isCorrect": False}
    )
    assert (fields["answer"], fields["correct"]) == ("4", False)


def test_messages_and_prompts() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    (fields,) = converted({"messages": [*turns, {"role": "assistant", "content": "a"}], "answer": "7"})
    assert [fields[key] for key in ("system", "problem", "completion", "answer")] == ["s", "q", "a", "7"]
    (fields,) = converted({"prompt": turns, "completion": [{"role": "assistant", "content": "a"}]})
    assert [fields[key] for key in ("system", "problem", "completion")] == ["s", "q", "a"]
    (fields,) = converted({"prompt": "q", "response": "a"})
    assert [fields[key] for key in ("problem", "completion")] == ["q", "a"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no list"),
        ("text", "no list"),
        ([3], "int in place"),
        ([{"role": "tool", "content": "x"}], "unknown role"),
        ([{"role": ["user"], "content": "x"}], "unknown role"),
        ([{"role": "user", "content": "x"}, {"role": "user", "content": "y"}], "several turns"),
        ([{"role": "user", "content": {"deep": 1}}], "holds a dict"),
    ],
)
def test_dialogues_that_are_none(messages: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        converted({"messages": messages})


def test_own_format() -> None:
    row = Record(problem="p", completion="c", completion_ids=(1, 2), attempt=3).model_dump()
    assert recognise(row).name == "the kit's trace format"
    (fields,) = converted(row)
    assert fields["completion_ids"] == (1, 2)


def test_an_unknown_set_is_told_what_to_do() -> None:
    with pytest.raises(RowError, match=r"columns a, b are those of no known set; map them"):
        recognise({"b", "a"})


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), ("x", "x"), (5, "5"), (70.0, "70"), (0.5, "0.5"), (["x"], "x")]
)
def test_text_of_a_cell(value: Any, text: str) -> None:
    assert text_of(value, "c") == text


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), ["a", "b"], {}, b"x", 10**400])
def test_cells_that_are_no_text(value: Any) -> None:
    with pytest.raises(RowError, match="column 'c'"):
        text_of(value, "c")


def test_answer_of_a_reference() -> None:
    assert answer_in("First \\boxed{1}, then \\boxed{2}.") == "2"
    assert answer_in("no answer at all") == ""
