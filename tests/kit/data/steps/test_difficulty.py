import pytest
from pydantic import ValidationError

from kit.data.records import Record
from kit.data.steps.difficulty import Difficulty

RECORDS = [Record(problem=f"p{rate}", pass_rate=rate) for rate in (0.0, 0.125, 0.5, 1.0, None)]


def test_bounds_are_included() -> None:
    outcome = Difficulty(min_pass_rate=0.125, max_pass_rate=0.5).apply(RECORDS)
    assert outcome.kept == [RECORDS[1], RECORDS[2], RECORDS[4]]
    assert [(drop.reason, drop.detail) for drop in outcome.dropped] == [
        ("too hard", "pass rate 0.000"),
        ("too easy", "pass rate 1.000"),
    ]


def test_unknown_may_be_dropped() -> None:
    outcome = Difficulty(unknown="drop").apply(RECORDS)
    assert outcome.kept == RECORDS[:4]
    assert [drop.reason for drop in outcome.dropped] == ["pass rate unknown"]


def test_bounds_that_nothing_passes() -> None:
    with pytest.raises(ValidationError, match="nothing could pass"):
        Difficulty(min_pass_rate=0.6, max_pass_rate=0.5)
