import json
from pathlib import Path
from typing import Any

import pytest

from submission.selection.calibration import Calibration, load_calibration, load_rule, save_calibration
from submission.selection.rule import PLAIN, Rule

RULE = Rule(method="prm", aggregate="product", temperature=0.25, blend=0.75)
HELPS = Calibration(
    method="prm",
    parameters=RULE,
    helps=True,
    gain=0.04,
    interval=(0.01, 0.08),
    level=0.95,
    p_value=0.01,
    accuracy=0.84,
    majority=0.8,
    problems=200,
    seed=3,
    folds=5,
)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    save_calibration(path, HELPS)
    assert load_calibration(path) == HELPS
    assert load_rule(path) == RULE


def test_what_does_not_help_is_the_plain_vote(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    save_calibration(path, HELPS.model_copy(update={"helps": False}))
    assert load_calibration(path).parameters == RULE
    assert load_rule(path) == PLAIN
    assert load_rule(None) == PLAIN


def changed(**fields: Any) -> bytes:
    return json.dumps({**HELPS.model_dump(mode="json"), **fields}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe{}",
        b"[" * 100_000,
        HELPS.model_dump_json().encode()[:-20],
        b" " * (2 << 20),
        changed(helps="true"),
        changed(gain=None),
        changed(surprise=1),
        changed(method="majority"),
        changed(interval=[0.0, 0.1]),
        changed(interval=[0.01]),
        changed(problems=0),
        changed(parameters={"method": "prm", "temperature": 0.0}),
        changed(parameters={"method": "prm", "blend": 2.0}),
        HELPS.model_dump_json().encode().replace(b"0.04", b"NaN"),
        HELPS.model_dump_json().encode().replace(b"0.25", b"1e999"),
    ],
)
def test_a_damaged_file_is_the_plain_vote(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(data)
    assert load_rule(path) == PLAIN
    assert "the plain vote is taken" in caplog.text
    with pytest.raises(ValueError, match=r"calibration .*calibration\.json"):
        load_calibration(path)


def test_a_missing_file_is_the_plain_vote(tmp_path: Path) -> None:
    assert load_rule(tmp_path / "none.json") == PLAIN
    assert load_rule(tmp_path) == PLAIN, "a folder"
