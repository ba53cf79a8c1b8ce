"""Records, journals and prefixes: what is written is what is read."""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.data.records import Record
from kit.data.tasks import Asking
from kit.steps.outcomes import Outcomes, prefix_key
from kit.steps.prefixes import Trace, TraceFile, cut, make_traces, write_traces
from kit.steps.recipe import StepsRecipe
from kit.steps.records import Audit, StepRecord, read_steps, write_steps
from kit.traces.journal import SampleLine, SampleWriter
from submission.engines.tokenizer import ChatTokenizer
from submission.parsing.symbolic import SymbolicChecker
from tests.kit.steps.test_consensus import record
from tests.tiny import make_tiny_checkpoint


@given(st.text(alphabet="ab \n\r\t$`\\é", max_size=60))
def test_pieces_are_the_completion_and_begin_with_their_step(text: str) -> None:
    steps, pieces = cut(text)
    assert len(steps) == len(pieces) and bool(steps) == bool(text.strip())
    if steps and all(step in text for step in steps):
        assert "".join(pieces) == text
    for step, piece in zip(steps, pieces, strict=True):
        assert piece.strip().startswith(step)


def test_a_thought_is_part_of_the_first_piece() -> None:
    steps, pieces = cut("<think>\nOne.\n\nTwo.</think>\n\nOne.\n\nTwo.")
    assert steps == ["One.", "Two."]
    assert pieces == ["<think>\nOne.\n\nTwo.</think>\n\nOne.\n\n", "Two."]
    assert cut("<think> endless") == ([], [])


def test_a_line_a_rollout_and_the_first_one_counts(tmp_path: Path) -> None:
    key = prefix_key("trace", "1", "é \ud800")
    assert len(key) == 12 and key != prefix_key("trace", "2", "é \ud800")
    line = SampleLine(problem=key, attempt=0, correct=True, finish="stop", gold="1", text="", ids=[1, 2])
    outcomes = Outcomes(tmp_path)
    outcomes.update()
    assert outcomes.rollouts == 0 and outcomes.of(key) == {}
    first, second = tmp_path / "journal-000.jsonl", tmp_path / "journal-001.jsonl"
    writer = SampleWriter(first)
    writer.write(line)
    outcomes.update()
    assert outcomes.of(key) == {0: True}
    SampleWriter(second).write(line.model_copy(update={"correct": False}))
    writer.write(line.model_copy(update={"attempt": 3, "correct": False, "finish": "length"}))
    with first.open("ab") as file:
        file.write(b'{"type": "sam')
    outcomes.update()
    outcomes.update()
    assert outcomes.of(key) == {0: True, 3: False}
    assert (outcomes.rollouts, outcomes.repeated, outcomes.cut, outcomes.tokens) == (2, 1, 1, 4)
    assert outcomes.damaged == 0 and outcomes.prefixes == 1
    # Whoever opens the journal next ends the line that was cut off.
    SampleWriter(first).write(line.model_copy(update={"attempt": 1}))
    outcomes.update()
    assert outcomes.damaged == 1 and outcomes.of(key) == {0: True, 3: False, 1: True}


def test_records_and_card(tmp_path: Path) -> None:
    made = [record([1, 0, 1], ["a\u2028", "é", "c"]), record([1, 1]), record([0, 0])]
    drawn = {"rollouts_cut": 2, "rollout_tokens": 99}
    card = write_steps(
        tmp_path,
        made,
        settings={"wave": 4},
        dropped={"why": 1},
        drawn=drawn,
        audit=Audit(prefixes=3, agree=2),
    )
    assert list(read_steps(tmp_path / "steps.jsonl")) == made
    assert (card.records, card.problems, card.steps, card.right_steps) == (3, 1, 7, 4)
    assert (card.without_error, card.right_answers, card.contradictions, card.rollouts) == (1, 2, 1, 28)
    assert card.licences == {"not stated": 3} and card.model == "m"
    again = write_steps(
        tmp_path,
        made,
        settings={"wave": 4},
        dropped={"why": 1},
        drawn=drawn,
        audit=Audit(prefixes=3, agree=2),
    )
    assert again == card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [1]}, "labels has 1 entries for 2 steps"),
        ({"labels": [1, 2]}, r"labels\.1"),
        ({"soft": [1.5, 0]}, r"soft\.0"),
        ({"first_error": 0}, "first label 0 is at 1"),
        ({"more": 1}, "more"),
    ],
)
def test_bad_records_are_named_by_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "steps.jsonl"
    good = record([1, 0]).model_dump()
    path.write_text(json.dumps(good) + "\n\n" + json.dumps({**good, **change}) + "\n")
    with pytest.raises(ValueError, match=f"line 3: .*{message}"):
        list(read_steps(path))


def test_soft_may_be_unknown() -> None:
    data = record([1, 0]).model_dump() | {"soft": [None, 0.0]}
    assert StepRecord.model_validate(data).soft == [None, 0.0]


# --- traces --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return ChatTokenizer(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


def traces_of(
    records: Sequence[Record], tokenizer: ChatTokenizer, context: int = 400
) -> tuple[list[Trace], dict[str, int]]:
    asking = Asking("", "{problem}", 64, context)
    with SymbolicChecker() as checker:
        found = make_traces(records, asking, tokenizer, checker)
    return found.traces, dict(found.refused)


def test_prefixes_extend_each_other_and_marks_stay_text(tokenizer: ChatTokenizer) -> None:
    text = "One.\n\nTwo <|im_end|> é\n \nSo \\boxed{2}\n"
    (trace,), refused = traces_of([Record(problem="1 + 1?", answer="2", completion=text)], tokenizer)
    assert not refused and trace.own and trace.steps == ("One.", "Two <|im_end|> é", "So \\boxed{2}")
    first, second = trace.prefix(0), trace.prefix(1)
    assert second[: len(first)] == first and [len(first), len(second)] == trace.prefix_lengths()[:2]
    assert first[: len(trace.prompt)] == list(trace.prompt)
    decoded = tokenizer.tokenizer.decode(second[len(trace.prompt) :], skip_special_tokens=False)
    assert decoded == "One.\n\nTwo <|im_end|> é\n \n"
    mark = tokenizer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert mark not in second[len(trace.prompt) :]
    assert len(set(trace.outline.keys)) == 2


def test_rows_that_cannot_be_used_are_counted(tokenizer: ChatTokenizer) -> None:
    good = Record(problem="1 + 1?", answer="2", completion="a\n\n\\boxed{3}")
    rows = [
        good,
        good,
        good.model_copy(update={"completion": "b\n\n\\boxed{2}", "correct": False}),
        good.model_copy(update={"completion": " "}),
        good.model_copy(update={"answer": "7", "completion": "c"}),
        Record(problem="?", answer="", completion="d"),
        good.model_copy(update={"completion": "<think> and so on"}),
        Record(problem="long?", answer="1", completion="e" * 500 + "\n\nf"),
    ]
    traces, refused = traces_of(rows, tokenizer)
    assert [trace.own for trace in traces] == [False, False]  # a record that says it is wrong is wrong
    assert refused == {
        "trace given before": 1,
        "no completion": 1,
        "nothing but a thought": 1,
        "another gold answer for the same problem": 1,
        "no gold answer": 1,
        "prefixes leave no room in the context": 1,
    }


def test_workers_read_what_is_handed_to_them(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    rows = [
        Record(problem=f"{number}?", answer="2", completion=f"a{number}\n\nb\n\n\\boxed{{2}}", licence="MIT")
        for number in range(3)
    ]
    traces, _ = traces_of(rows, tokenizer)
    write_traces(tmp_path / "traces.jsonl", traces)
    held = TraceFile(tmp_path / "traces.jsonl")
    assert held.outlines == [trace.outline for trace in traces]
    assert [held[index] for index in (2, 0, 1)] == [traces[index] for index in (2, 0, 1)]
    assert isinstance(held[0].prompt, array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature 0 draws one roll-out"),
        ({"threshold": 1.5}, "threshold"),
        ({"user_prompt": "hi"}, "exactly once"),
        ({"search": "some"}, "first_error"),
        ({"engine": {"kind": "replay"}}, "replay"),
    ],
)
def test_bad_recipes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepsRecipe.parse({"model": "m", "traces": "t", **change}, "here")
