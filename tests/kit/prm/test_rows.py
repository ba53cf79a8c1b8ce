from pathlib import Path

import numpy as np
import pytest

from kit.prm.rows import StepRow, StepTable, labelled_steps, step_row, write_steps_table
from kit.training.rows import TokenRow
from submission.prm.heads import Head
from submission.prm.layout import lay_out

# prompt 1 2 | 10 11 | 9 | 12 | 9 | 13 14 15 | 9
LAYOUT = lay_out([1, 2], [[10, 11], [12], [13, 14, 15]], [9], 64)[0]


@pytest.mark.parametrize(
    ("head", "span", "labels", "mask", "sizes"),
    [
        ("token_classification", "step", [1.0, None, 0.5], "00001000001", [1, 1]),
        ("process_reward", "step", [None, 0.0, None], "00000010000", [1]),
        ("logprob", "step", [1.0, None, 0.5], "00110001110", [2, 3]),
        ("logprob", "prefix", [None, 1.0, None], "00110100000", [2, 1]),
    ],
)
def test_marked_tokens(
    head: Head, span: str, labels: list[float | None], mask: str, sizes: list[int]
) -> None:
    row = step_row(LAYOUT, labels, 7, head=head, span=span)
    assert row is not None
    assert "".join(map(str, row.mask.tolist())) == mask
    assert row.sizes.tolist() == sizes
    known = [label for label in labels if label is not None]
    assert [value for value in row.labels.tolist() if np.isfinite(value)] == known
    assert (row.labelled, row.source) == (len(known), 7)


def test_no_label_no_row() -> None:
    assert step_row(LAYOUT, [None] * 3, 0, head="logprob") is None


def test_a_label_too_few_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="one label and one place a step"):
        step_row(LAYOUT, [1.0, 0.0], 0, head="logprob")


def test_a_table_gives_its_rows_back(tmp_path: Path) -> None:
    made = [
        step_row(LAYOUT, [1.0, None, 0.25], 0, head="logprob", span="prefix"),
        step_row(LAYOUT, [0.0, None, None], 1, head="logprob"),
    ]
    rows = [row for row in made if row is not None]
    write_steps_table(tmp_path / "train", rows, {})
    table = StepTable(tmp_path / "train")
    assert (len(table), table.lengths) == (2, [11, 11])
    for found, row in zip([table[0], table[1]], rows, strict=True):
        for name in ("ids", "mask", "sizes", "labels"):
            np.testing.assert_array_equal(getattr(found, name), getattr(row, name))
        assert found.source == row.source


def test_a_ranks_filler_has_no_step() -> None:
    filler = TokenRow(np.zeros(1, np.int32), np.zeros(1, np.uint8))
    row = step_row(LAYOUT, [1.0, 0.0, None], 0, head="token_classification")
    assert isinstance(row, StepRow)
    assert labelled_steps([filler, row]) == 2
