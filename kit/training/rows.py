"""Token rows: what all phases train on, in flat arrays on disk that every rank maps.

A table is a folder of three numpy files: `ids.npy` int32 [tokens], `mask.npy` uint8 [tokens] (1 where the
token is trained), `ends.npy` int64 [rows]. 5 bytes a token on disk; a mapped file costs a rank only the
pages that it reads.
"""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from submission.files import write_text


@dataclass(frozen=True)
class TokenRow:
    """One sequence.

    Args:
        ids: int32 [L], prompt and completion.
        mask: uint8 [L], 1 on the tokens whose prediction is trained; the first is always 0.
        source: the record's number in the data that the row was made of (for what is cached beside it).
    """

    ids: npt.NDArray[np.int32]
    mask: npt.NDArray[np.uint8]
    source: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class TokenTable:
    """Rows in a folder, read lazily."""

    def __init__(self, folder: Path) -> None:
        self._ids, self._mask, self._ends, self._sources = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("ids", "mask", "ends", "sources")
        )
        self.lengths: list[int] = np.diff(self._ends, prepend=0).tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TokenRow:
        end = int(self._ends[index])
        part = slice(end - self.lengths[index], end)
        return TokenRow(self._ids[part], self._mask[part], int(self._sources[index]))

    def trained_tokens(self, rows: Iterable[int]) -> int:
        """Tokens that carry a loss in these rows together."""
        return sum(int(self[row].mask.sum()) for row in rows)


def write_table(folder: Path, rows: Sequence[TokenRow], about: dict[str, object]) -> TokenTable:
    """Write rows as a table, in one rename: a folder that exists is whole. `about` is kept for the reader."""
    assert rows and all(len(row.ids) == len(row.mask) and not row.mask[0] for row in rows)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        arrays: dict[str, npt.NDArray[Any]] = {
            "ids": np.concatenate([row.ids for row in rows]).astype(np.int32),
            "mask": np.concatenate([row.mask for row in rows]).astype(np.uint8),
            "ends": np.cumsum([len(row) for row in rows], dtype=np.int64),
            "sources": np.array([row.source for row in rows], dtype=np.int64),
        }
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        write_text(temporary / "about.json", json.dumps(about, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return TokenTable(folder)
