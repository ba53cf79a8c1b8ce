"""Which code is run, and how its output comes back."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.agents.formats.base import MAX_CODE_CHARS
from submission.agents.formats.fenced import code_to_run, output_block


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Let us see.\n```python\nprint(1)\n```\n", "print(1)\n"),
        ("```python\na = 1\n```\nand\n```py\nprint(a)\n```  \n\n", "print(a)\n"),  # the last one
        ("```python\nprint('```')\n```\n", "print('```')\n"),  # a fence within a line closes nothing
        ("```python\n```\n", ""),
        ("no code", None),
        ("```python\nprint(1)", None),  # cut off
        ("```python\nprint(1)\n```\nSo the answer is 1.\n", None),  # prose after it
        ("```\nprint(1)\n```\n", None),  # no language
        ("```json\n{}\n```\n", None),
        ("text ```python\nprint(1)\n```\n", None),  # not at the start of a line
        (f"```python\n{'#' * MAX_CODE_CHARS}\n```\n", None),
    ],
)
def test_code_to_run(text: str, code: str | None) -> None:
    assert code_to_run(text) == code


BLOCK = re.compile(r"^```(?:python|py)[ \t]*\n(.*?)^```[ \t]*$", flags=re.DOTALL | re.MULTILINE)
PIECES = ["```", "```python", "```py", "python", "x = 1", "\n", "\n", "\n", " ", "\t"]


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_blocks_are_those_of_one_pattern(text: str) -> None:
    blocks = list(BLOCK.finditer(text))
    whole = blocks and not text[blocks[-1].end() :].strip()
    assert code_to_run(text) == (blocks[-1][1] if whole else None)


@pytest.mark.parametrize("line", ["```python\n", "```python\nx\n", "```py \n```python", "```\n", "\n"])
def test_time_is_linear_in_any_text(line: str) -> None:
    begun = time.process_time()
    code_to_run(line * (400_000 // len(line)))
    assert time.process_time() - begun < 2  # a pattern for whole blocks took minutes


def test_output_by_hand() -> None:
    assert output_block("42\n", 100) == "\n42\n```\n"
    cut = output_block("a" * 60 + "b" * 60, 40)
    assert cut == f"\n{'a' * 30}\n... 80 characters left out ...\n{'b' * 10}\n```\n"


@given(st.text(), st.integers(8, 200))
def test_an_output_closes_its_block_once(output: str, limit: int) -> None:
    block = output_block(output, limit)
    assert block.count("```") == 1
    assert block.endswith("\n```\n")
    assert len(block) <= max(len(output) * 2, limit) + 60
