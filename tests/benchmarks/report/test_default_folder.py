"""Where a run goes that names no folder."""

from pathlib import Path

import pytest

from benchmarks.run.__main__ import default_folder
from benchmarks.run.plan import Plan
from benchmarks.run.sets import Item, ProblemSet
from submission.answers import parse_gold


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"time_limit": 18_000.0}, "recorded-samples-aime-300m"),
        ({"time_limit": 90.0, "optimization": "speed"}, "recorded-samples-aime-1.5m-speed"),
        ({"samples": 64}, "recorded-samples-aime-64-samples"),
    ],
)
def test_it_is_named_after_what_is_played(tmp_path: Path, changed: dict[str, object], name: str) -> None:
    (tmp_path / "samples.jsonl").write_text("")
    problems = ProblemSet("aime", "aime.csv", (Item("a", "What is 1+1?", parse_gold("2")),))
    replay = ("engine.kind=replay", f"engine.recording={tmp_path / 'samples.jsonl'}")
    options = {"time_limit": None, "samples": None, **changed}
    plan = Plan(bundle=None, sets=(problems,), settings=replay, **options)  # type: ignore[arg-type] # by name
    assert default_folder(plan) == Path("runs/bench") / name
