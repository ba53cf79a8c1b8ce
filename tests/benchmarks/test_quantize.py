"""What the quantizing benchmark counts, and its section."""

from typing import Any

from benchmarks.quantize import right, section
from kit.data.records import Record

ROW: dict[str, Any] = {
    "scheme": "int8",
    "ratio": 0.617,
    "right": 98,
    "points": -1.0,
    "flipped": 5,
    "figures": {
        "perplexity_before": 1.08,
        "perplexity_after": 1.081,
        "agreement": 0.995,
        "kl": 0.00012,
    },
    "load_check": {"difference": 0.0004},
}


def test_answers_are_compared_as_in_a_contest() -> None:
    records = [Record(problem="1 + 1?", answer="2"), Record(problem="2 + 2?", answer="4")]
    assert right(["Answer: \\boxed{2}", "Answer: \\boxed{5}"], records) == [True, False]


def test_the_section_shows_every_model_and_scheme() -> None:
    model = {"name": "cut short", "right": 101, "parameters": 219_360, "bytes": 441_408, "rows": [ROW]}
    lines = section({"problems": 300, "models": [model]})
    assert "| cut short | none | 1 | 101 | | | | | | |" in lines
    assert lines[-1] == ("| | int8 | 0.62 | 98 | -1.0 | 5 | 1.0800 → 1.0810 | 99.50% | 1.2e-04 | 0.0004 |")
    assert "Small models (219,360 parameters, 441 kB in bfloat16)" in lines[0]
