"""The proof that a tool helps: its traces by hand, its figures, and a small run of the whole."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.learning.settings import ModelShape, Training
from benchmarks.tools import Lessons, Side, compared, helps, measure, same_share, section, trace
from kit.data.records import Record
from kit.worked import Difficulty, generate
from submission.agents.formats.fenced import OUTPUT_MARK, code_to_run, output_block
from submission.agents.tool_writer import ToolCall
from submission.solving.sample import Sample, Solution


def test_a_trace_by_hand() -> None:
    worked = "Step 1: 30 - 4 = 26\n\nStep 2: 26 + 5 = 31\n\nAnswer: \\boxed{31}"
    record = Record(problem="Compute 30 - 4 + 5.", answer="31", completion=worked)
    written = "```python\nprint(30 - 4 + 5)\n```\n```output\n31\n```\n\\boxed{31}"
    assert trace(record) == record.model_copy(update={"completion": written})
    with pytest.raises(ValueError, match="no steps"):
        trace(Record(problem="p", answer="1", completion="\\boxed{1}"))


def test_a_trace_is_what_the_tool_would_have_written() -> None:
    for record in generate(200, "train", 3, Lessons().difficulty):
        said, _, rest = trace(record).completion.partition(OUTPUT_MARK)
        code = code_to_run(said)
        assert code is not None
        value = eval(code.strip().removeprefix("print"), {})  # noqa: S307 - digits and signs of our own
        assert rest == output_block(str(value), 100) + f"\\boxed{{{record.answer}}}"


def side(answers: list[tuple[int, int]], drawn: dict[tuple[str, int], list[int]]) -> Side:
    """Two samples a problem."""
    solutions = []
    for pair in answers:
        call = ToolCall("print(1)", "1", failed=False, seconds=0.5)
        samples = tuple(Sample(attempt=n, answer=one, calls=(call,)) for n, one in enumerate(pair))
        solutions.append(Solution(pair[0], "vote", (), samples, seconds=1.0, stopped="all finished"))
    return Side(solutions, {sample: [1, 2] for sample in drawn}, drawn)


RECORDS = [Record(problem=f"p{n}", answer=str(n)) for n in range(3)]
TOOL = side([(0, 0), (1, 1), (2, 9)], {("0", 0): [5, 6], ("0", 1): [5, 7]})
ALONE = side([(0, 9), (9, 9), (9, 2)], {("0", 0): [5, 6, 8], ("0", 1): [5, 8, 7]})


def test_the_figures_by_hand() -> None:
    figures = compared(RECORDS, TOOL, ALONE)
    assert (figures["accuracy"]["tool"], figures["accuracy"]["alone"]) == pytest.approx((5 / 6, 2 / 6))
    assert (figures["majority"]["tool"], figures["majority"]["alone"]) == pytest.approx((1, 1 / 3))
    assert figures["accuracy"]["difference"][0] == pytest.approx(0.5)
    assert figures["same_share"] == 0.5  # the second sample parts before its mark
    assert (figures["calls"], figures["failures"], figures["call_seconds_p50"]) == (6, 0, 0.5)
    assert not helps(figures)  # three problems do not show it
    figures["accuracy"]["difference"][1] = figures["majority"]["difference"][1] = 0.1
    assert helps(figures)
    page = "\n".join(section({**figures, "parameters": 1_234, "training_cpu_seconds": 9.0}))
    assert "| Samples | 83.3% | 33.3% | +50.0 (+10.0 to " in page
    assert "1,234" in page
    assert "500.0 ms a call" in page


def test_sides_with_other_prompts_are_not_compared() -> None:
    other = dataclasses.replace(ALONE, prompts={("0", 0): [1, 3], ("0", 1): [1, 2]})
    with pytest.raises(ValueError, match="different prompts"):
        same_share(TOOL, other)


@pytest.mark.slow
def test_a_small_model_is_taught_and_played_both_ways(tmp_path: Path) -> None:
    """Whether so little teaching makes the tool help is not the question: it is called, all else is equal."""
    lessons = Lessons(
        problems=1_000,
        difficulty=Difficulty(kinds=["sum"], max_operands=2, largest=99, worded=0),
        model=ModelShape(hidden=64, heads=2, intermediate=128),
        training=Training(steps=250),
    )
    figures = measure(lessons, problems=4, samples=3, folder=tmp_path)
    assert figures["same_share"] == 1
    assert figures["calls"] >= 10  # of twelve: the form is learnt long before the arithmetic
    assert 0 < figures["call_seconds_p50"] < 20
    (kept,) = tmp_path.iterdir()
    before = (kept / "model" / "model.safetensors").stat().st_mtime_ns
    measure(lessons, problems=2, samples=1, folder=tmp_path)
    assert (kept / "model" / "model.safetensors").stat().st_mtime_ns == before, "taught again"
