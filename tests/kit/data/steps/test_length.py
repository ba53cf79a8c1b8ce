from pathlib import Path

import pytest
from pydantic import ValidationError

from kit.data.records import Record
from kit.data.steps.length import Length
from tests.tiny import make_tiny_checkpoint


def reasons(step: Length, *records: Record) -> list[str]:
    found = {drop.record.id: drop.reason for drop in step.apply(records).dropped}
    return [found.get(record.id, "") for record in records]


def test_characters_and_words() -> None:
    records = [
        Record(problem="ab"),
        Record(problem="a b c", completion="x"),
        Record(problem="a b", completion="x y z"),
    ]
    assert reasons(Length(min_problem=3), *records) == ["problem too short", "", ""]
    assert reasons(Length(unit="words", max_problem=2), *records) == ["", "problem too long", ""]
    assert reasons(Length(unit="words", min_completion=2), *records) == ["", "completion too short", ""]
    assert reasons(Length(max_completion=4), *records) == ["", "", "completion too long"]
    assert reasons(Length(completion_required=True), *records) == ["no completion", "", ""]


def test_limits_are_included() -> None:
    assert reasons(Length(min_problem=3, max_problem=3), Record(problem="abc")) == [""]


@pytest.mark.slow
def test_tokens_of_a_tokenizer(tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", vocab_texts=("frac",))
    step = Length(unit="tokens", tokenizer=str(folder), max_completion=4)
    records = [
        Record(problem="p", completion="frac123"),  # one token for "frac", one a byte
        Record(problem="p", completion="frac1234"),
        Record(problem="p", completion="frac1234", completion_ids=(5, 6, 7)),
    ]
    outcome = step.apply(records)
    assert outcome.kept == [records[0], records[2]]
    assert outcome.dropped[0].detail == "5 tokens, over 4"


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ValidationError, match="needs a tokenizer"):
        Length(unit="tokens")
    with pytest.raises(ValidationError, match="nothing could pass"):
        Length(min_completion=5, max_completion=4)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    step = Length(unit="tokens", tokenizer=str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"length\.tokenizer .*none' cannot be loaded"):
        step.apply([Record(problem="p")])
