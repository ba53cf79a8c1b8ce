"""Tensors of one forward pass, against a worked example."""

import numpy as np
import pytest

from kit.training.batches import collate
from kit.training.rows import TokenRow


def row(ids: list[int], mask: list[int]) -> TokenRow:
    return TokenRow(np.array(ids, np.int32), np.array(mask, np.uint8))


ROWS = [row([5, 6, 7], [0, 1, 1]), row([8, 9], [0, 1]), row([1, 2, 3, 4], [0, 0, 1, 0])]


def test_packed_by_hand() -> None:
    micro = collate(ROWS, "cpu")
    assert micro.input_ids.tolist() == [[5, 6, 7, 8, 9, 1, 2, 3, 4]]
    assert micro.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert micro.segments == (3, 2, 4)
    # Position 0 predicts 6, 1 predicts 7; 3 predicts 9; 6 (token 2) predicts 3. Never across a border.
    assert micro.positions.tolist() == [0, 1, 3, 6]
    assert micro.targets.tolist() == [6, 7, 9, 3]
    assert micro.tokens == 9
    arguments = micro.attention_arguments()
    assert arguments["cu_seq_lens_q"].tolist() == [0, 3, 5, 9]
    assert arguments["max_length_k"] == 4


def test_padded_by_hand() -> None:
    micro = collate(ROWS, "cpu", packing=False)
    assert micro.input_ids.tolist() == [[5, 6, 7, 0], [8, 9, 0, 0], [1, 2, 3, 4]]
    assert micro.position_ids.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0], [0, 1, 2, 3]]
    assert micro.segments == ()
    assert micro.positions.tolist() == [0, 1, 4, 9]
    assert micro.targets.tolist() == [6, 7, 9, 3]
    assert micro.tokens == 9
    assert micro.attention_arguments() == {}


@pytest.mark.parametrize("packing", [True, False])
def test_no_rows_are_a_forward_pass_without_loss(packing: bool) -> None:
    micro = collate((), "cpu", packing=packing)
    assert tuple(micro.input_ids.shape) == (1, 1)
    assert micro.targets.numel() == micro.positions.numel() == 0


@pytest.mark.parametrize("packing", [True, False])
def test_what_predicts_and_what_is_predicted_lie_next_to_each_other(packing: bool) -> None:
    from tests.kit.training.made import token_rows

    rows = token_rows(7, seed=4)
    micro = collate(rows, "cpu", packing=packing)
    flat = micro.input_ids.flatten()
    assert flat[micro.positions + 1].tolist() == micro.targets.tolist()
    assert micro.targets.numel() == sum(int(row.mask.sum()) for row in rows)
