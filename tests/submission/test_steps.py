"""Steps of solutions as models write them: what is cut, what never is, and that nothing is lost."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shared import shared_file
from submission.steps import LONGEST, split_steps, write_up

ALIGNED = "\\begin{align*}\na &= 1 \\\\[4pt]\n\nb &= 2\n\\end{align*}"
CODE = "```python\nx = 1\n\nprint(x)\n1. no item\n```"


def test_steps_are_paragraphs() -> None:
    assert split_steps("First.\nstill first\n\n  \n Second. \n\n\n\nThird.") == [
        "First.\nstill first",
        "Second.",
        "Third.",
    ]
    assert split_steps("one") == ["one"]


def test_an_empty_text_has_no_step() -> None:
    assert split_steps("") == split_steps(" \n\n ") == []


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a = 1\nb = 2\r\nc = 3", ["a = 1", "b = 2", "c = 3"]),
        ("Cases:\n1. even\n2) odd\n\nDone.", ["Cases:", "1. even", "2) odd", "Done."]),
        ("Step 1: add\nget 3\nStep 2: take\n\nso 1", ["Step 1: add\nget 3", "Step 2: take", "so 1"]),
        ("**Step 1:** a\nb\n\n**Step 2:** c", ["**Step 1:** a\nb", "**Step 2:** c"]),
        ("Let it be\n1.5 times\n\nas much", ["Let it be\n1.5 times", "as much"]),
        ("1. a\n   more of a\n\n   - b\n\n2. c", ["1. a\n   more of a", "- b", "2. c"]),
    ],
)
def test_lines_items_and_step_marks(text: str, steps: list[str]) -> None:
    assert split_steps(text) == steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("## Step 1: Look\n\nWe.\n\n## Step 2\n\nOk.", ["## Step 1: Look\n\nWe.", "## Step 2\n\nOk."]),
        ("**Setup:**\n\nLet x = 1.\n\nThen 2.", ["**Setup:**\n\nLet x = 1.", "Then 2."]),
        ("## Step 1: 1 + 1 = 2\n\n## Step 2: 2 + 2 = 4", ["## Step 1: 1 + 1 = 2", "## Step 2: 2 + 2 = 4"]),
        ("Step 1:\nadd", ["Step 1:\nadd"]),
        ("It is so.\n\n**Answer: 4**", ["It is so.", "**Answer: 4**"]),
    ],
)  # fmt: skip
def test_a_title_goes_with_what_follows(text: str, steps: list[str]) -> None:
    assert split_steps(text) == steps


@pytest.mark.parametrize(
    "block",
    [
        "\\[\na = 1\n\nb = 2\n\\]",
        "$$\na = 1\n\n$$",
        "\\[\n\\begin{cases}\n1\n\n2\n\\end{cases}\n\\]",
        ALIGNED,
        CODE,
        "~~~\n```\n\n~~~",
    ],
)
def test_blocks_are_never_cut(block: str) -> None:
    assert split_steps(f"We have\n\n{block}\n\nand so\n1. on") == ["We have", block, "and so", "1. on"]
    assert split_steps(f"We have\n{block}\nand so on") == ["We have", block, "and so on"]


@pytest.mark.parametrize("opened", ["\\[", "$$", "\\begin{align}", "```", "\\begin{a}\\[$$"])
def test_what_is_never_closed_protects_nothing(opened: str) -> None:
    assert split_steps(f"a\n\n{opened}\n\nb\n\nc") == ["a", opened, "b", "c"]


def test_an_amount_in_dollars_and_a_row_break_open_nothing() -> None:
    assert split_steps("costs \\$$5\n\nand $$\n\nb") == ["costs \\$$5", "and $$", "b"]
    assert split_steps("a \\\\[4pt]\n\nb \\]") == ["a \\\\[4pt]", "b \\]"]


def test_a_long_paragraph_is_cut_at_its_sentences() -> None:
    sentence = "We add one and get the next one. "
    steps = split_steps(sentence * 200)
    assert len(steps) == 4 and all(len(step) <= LONGEST and step.endswith(".") for step in steps)
    assert " ".join(steps) == (sentence * 200).strip()
    assert split_steps("x" * 9_000) == ["x" * 9_000]
    maths = "\\[\n" + "a. B = 1\n" * 400 + "\\]"
    assert split_steps(maths) == [maths]


def test_hundreds_of_steps() -> None:
    steps = [f"Step {number}: {number} + 1 = {number + 1}" for number in range(700)]
    assert split_steps("\n\n".join(steps)) == split_steps("\n".join(steps)) == steps


def test_write_up() -> None:
    assert write_up("<think>\nHm.\n\nNo.</think>\n\nSo 4.") == "So 4."
    assert write_up("no opening mark</think>So 4.") == "So 4."
    assert write_up("<think>a</think>b<think>c</think>d") == "d"
    assert write_up(" So 4. ") == "So 4."
    assert write_up("<think>cut off") == write_up("<think>a</think>") == ""
    assert write_up("It says <think> here.") == "It says <think> here."


MARKS = ("\\[", "\\]", "$$", "\\$", "\\\\", "\\begin{align}", "\\end{align}", "\\end{b}", "```", "~~~")
WORDS = (
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    " ",
    "a. B",
    "Step 3: x",
    "**Step 2:**",
    "## T",
    "1. i",
    "x" * 700,
    "é\u2028",
)
PIECES = st.sampled_from((*MARKS, *WORDS))
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join))


@given(TEXTS)
def test_nothing_but_white_space_is_lost(text: str) -> None:
    steps = split_steps(text)
    assert "".join("".join(steps).split()) == "".join(text.split())
    assert all(step and step == step.strip() for step in steps)
    assert split_steps(text) == steps


@given(TEXTS)
def test_a_step_alone_is_not_lost_either(text: str) -> None:
    assert all(split_steps(step) for step in split_steps(text))


@pytest.mark.parametrize(
    "piece",
    [
        "\\[",
        "$$",
        "\n```",
        "\\begin{a}",
        "\n#",
        "1. ",
        ". A",
        "**",
        "\n \n",
        "\\begin{a}\\[$$\n",
        "Step 1",
        "`",
    ],
)
def test_hostile_texts_take_linear_time(piece: str) -> None:
    text = "x" + piece * (100_000 // len(piece)) + "x"
    began = time.process_time()
    steps = split_steps(text)
    assert time.process_time() - began < 1.0
    assert "".join("".join(steps).split()) == "".join(text.split())


@pytest.mark.parametrize(("name", "rows", "least"), [("gsm8k", 400, 400), ("math", 1_000, 975)])
def test_the_steps_of_processbench_are_found_again(name: str, rows: int, least: int) -> None:
    path = shared_file(f"processbench/{name}.json")
    if path is None:
        pytest.skip("ProcessBench is not on this machine")
    solutions = [row["steps"] for row in json.loads(path.read_text(encoding="utf-8"))]
    assert len(solutions) == rows
    cut = [split_steps("\n\n".join(steps)) for steps in solutions]
    assert all(split_steps("\n\n".join(steps)) == steps for steps in cut)
    # What differs has lists whose items ProcessBench counts as one step.
    assert sum(len(found) == len(steps) for found, steps in zip(cut, solutions, strict=True)) >= least
