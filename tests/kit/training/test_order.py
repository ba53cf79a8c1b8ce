"""Which rows a step sees: every row once an epoch, the same on every machine and for every world size."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.training.order import epoch_order, step_rows, stream_length, total_steps


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "max_steps", "expected"),
    [
        (10, 4, 1.0, 0, 3),  # 4 + 4 + 2
        (10, 4, 2.0, 0, 5),  # one stream of 20: no short batch at the epoch's end
        (10, 4, 0.5, 0, 2),  # 5 rows
        (10, 4, 0.01, 0, 1),  # never less than one row
        (10, 100, 3.0, 0, 1),
        (10, 4, 2.0, 3, 3),
        (10, 4, 2.0, 99, 5),
    ],
)
def test_steps_by_hand(rows: int, batch_size: int, epochs: float, max_steps: int, expected: int) -> None:
    assert total_steps(rows, batch_size, epochs, max_steps) == expected


@given(
    rows=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    whole=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    shuffle=st.booleans(),
)
def test_every_row_once_an_epoch(rows: int, batch_size: int, whole: int, seed: int, shuffle: bool) -> None:
    steps = total_steps(rows, batch_size, float(whole))
    batches = [step_rows(n, rows, batch_size, float(whole), seed, shuffle=shuffle) for n in range(steps)]
    assert all(len(batch) == batch_size for batch in batches[:-1])
    stream = [row for batch in batches for row in batch]
    assert len(stream) == rows * whole
    for epoch in range(whole):
        assert sorted(stream[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@given(rows=st.integers(1, 40), batch_size=st.integers(1, 9), epochs=st.floats(0.1, 3.5))
def test_fractions_of_an_epoch_see_no_row_much_more_often(rows: int, batch_size: int, epochs: float) -> None:
    steps = total_steps(rows, batch_size, epochs)
    stream = [row for n in range(steps) for row in step_rows(n, rows, batch_size, epochs, 3)]
    assert len(stream) == stream_length(rows, epochs) == max(1, round(rows * epochs))
    seen = Counter(stream)
    assert max(seen.values()) - min(seen[row] for row in range(rows)) <= 1


def test_the_order_is_fixed_for_ever() -> None:
    """Resuming on another machine, or another numpy, depends on these very numbers."""
    assert epoch_order(8, 0, 0).tolist() == ORDER_0
    assert epoch_order(8, 0, 1).tolist() == ORDER_1
    assert epoch_order(8, 1, 0).tolist() == ORDER_SEED_1
    assert step_rows(1, 8, 3, 2.0, 0) == ORDER_0[3:6]
    assert step_rows(2, 8, 3, 2.0, 0) == [*ORDER_0[6:], ORDER_1[0]]


ORDER_0 = [5, 0, 6, 1, 7, 2, 4, 3]
ORDER_1 = [2, 0, 4, 1, 7, 5, 3, 6]
ORDER_SEED_1 = [0, 5, 4, 1, 2, 6, 3, 7]


def test_a_step_longer_than_several_epochs() -> None:
    rows = step_rows(0, 2, 7, 3.5, 5)
    assert len(rows) == 7
    assert [sorted(rows[at : at + 2]) for at in (0, 2, 4)] == [[0, 1]] * 3


def test_without_shuffling_rows_come_as_they_lie() -> None:
    assert step_rows(1, 5, 3, 2.0, 9, shuffle=False) == [3, 4, 0]


def test_the_end_of_the_run_is_an_error_of_ours() -> None:
    with pytest.raises(AssertionError, match="behind the end"):
        step_rows(3, 10, 4, 1.0, 0)


def test_epochs_differ_and_do_not_follow_a_pattern() -> None:
    orders = [epoch_order(50, 0, epoch).copy() for epoch in range(20)]
    assert len({tuple(order) for order in orders}) == 20
    # Mean position of each row over epochs: 24.5, with deviation 14.4 / sqrt(20) = 3.2.
    positions = np.mean([np.argsort(order) for order in orders], axis=0)
    assert np.abs(positions - 24.5).max() < 5 * 3.3
