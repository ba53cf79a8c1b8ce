"""Token tables on disk: what is written is what is read, and a folder that exists is whole."""

from pathlib import Path

import numpy as np
import pytest

from kit.training.rows import TokenRow, TokenTable, write_table
from tests.kit.training.made import token_rows


def test_rows_come_back(tmp_path: Path) -> None:
    rows = token_rows(12)
    written = write_table(tmp_path / "deep" / "table", rows, {"made": "by a test"})
    opened = TokenTable(tmp_path / "deep" / "table")
    for table in (written, opened):
        assert len(table) == 12
        assert table.lengths == [len(row) for row in rows]
        for index, row in enumerate(rows):
            found = table[index]
            assert found.ids.dtype == np.int32
            assert found.mask.dtype == np.uint8
            assert found.ids.tolist() == row.ids.tolist()
            assert found.mask.tolist() == row.mask.tolist()
            assert found.source == row.source
    assert opened.trained_tokens([0, 3]) == int(rows[0].mask.sum() + rows[3].mask.sum())
    assert (
        sum(path.stat().st_size for path in (tmp_path / "deep" / "table").glob("*.npy"))
        < 5 * sum(map(len, rows)) + 16 * len(rows) + 4 * 200
    )


def test_a_table_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_table(tmp_path / "table", token_rows(5), {})
    # What a killed process left, under its own name.
    (tmp_path / ".table.1.tmp").mkdir()
    write_table(tmp_path / "table", token_rows(3, seed=1), {})
    assert len(TokenTable(tmp_path / "table")) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".table.1.tmp", "table"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_table(tmp_path / "table", token_rows(3), {})
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_trains_its_first_token_is_an_error_of_ours(tmp_path: Path) -> None:
    """Nothing predicts the first token: its loss would silently be left out."""
    row = TokenRow(np.array([1, 2], np.int32), np.array([1, 1], np.uint8))
    with pytest.raises(AssertionError):
        write_table(tmp_path / "table", [row], {})
