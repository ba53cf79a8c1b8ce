"""Which rows an optimizer step sees. It depends on the seed and the batch size, never on the world size.

Rows come in epochs, each a fresh permutation; the epochs form one stream that is cut into batches, so no row
is left out at an epoch's end. Any step's rows follow from its number alone: resuming needs no other state.
"""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt


def total_steps(rows: int, batch_size: int, epochs: float, max_steps: int = 0) -> int:
    """Optimizer steps of a run; the last batch may be smaller than the others."""
    steps = math.ceil(stream_length(rows, epochs) / batch_size)
    return min(steps, max_steps) if max_steps else steps


def stream_length(rows: int, epochs: float) -> int:
    """Rows seen in all, repeats counted."""
    assert rows > 0 and epochs > 0
    return max(1, round(rows * epochs))


@lru_cache(maxsize=2)
def epoch_order(rows: int, seed: int, epoch: int, shuffle: bool = True) -> npt.NDArray[np.int64]:
    """Permutation of `range(rows)` of one epoch, int64 [rows]; 8 bytes a row."""
    if not shuffle:
        return np.arange(rows)
    # Counter-based (Salmon et al. 2011): the same on every machine and numpy since 1.17.
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)


def step_rows(
    step: int, rows: int, batch_size: int, epochs: float, seed: int, *, shuffle: bool = True
) -> list[int]:
    """Row numbers of step `step` (from 0), in order; the same row comes twice only across an epoch's end."""
    begin = step * batch_size
    end = min(begin + batch_size, stream_length(rows, epochs))
    assert begin < end, f"step {step} lies behind the end of the run"
    return [int(epoch_order(rows, seed, at // rows, shuffle)[at % rows]) for at in range(begin, end)]
