"""One copy of a prompt for several rows: every row's numbers stay those of the row by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.training.attention import can_share, segment_attention, sharing_too
from kit.training.batches import collate
from kit.training.model import add_lora, load_causal, wrap
from kit.training.recipe import LoraSection, ModelSection
from kit.training.rows import TokenRow
from kit.training.sharing import make_sharing, places_of, prompts_of, tokens_without_repeats
from tests.kit.training.made import exact_norms
from tests.tiny import make_tiny_checkpoint


def row(prompt: list[int], completion: list[int], source: int = 0) -> TokenRow:
    mask = np.array([0] * len(prompt) + [1] * len(completion), np.uint8)
    return TokenRow(np.array([*prompt, *completion], np.int32), mask, source)


ROWS = [row([5, 6], [7]), row([8], [9, 1]), row([5, 6], [2, 3]), row([5, 6, 7], [4])]
"""The first and the third share a prompt; that of the last only begins with it."""


def test_places_by_hand() -> None:
    assert prompts_of(ROWS) == [(0, 2), (1, 1), (0, 2), (2, 3)]
    places, repeats = places_of(ROWS)
    assert [place.tolist() for place in places] == [[0, 1, 2], [3, 4, 5], [0, 1, 6, 7], [8, 9, 10, 11]]
    assert repeats == [(2, 0, 2)]
    assert tokens_without_repeats([len(one) for one in ROWS], prompts_of(ROWS)) == 12


@pytest.mark.parametrize("packing", [True, False])
def test_a_micro_batch_by_hand(packing: bool) -> None:
    micro = collate(ROWS, "cpu", packing=packing, share=True)
    assert micro.input_ids.tolist() == [[5, 6, 7, 8, 9, 1, 2, 3, 5, 6, 7, 4]]
    assert micro.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 2, 3, 0, 1, 2, 3]]
    # The prompt's last token, at 1, predicts the first token of both of its completions.
    assert micro.positions.tolist() == [1, 3, 4, 1, 6, 10]
    assert micro.targets.tolist() == [7, 9, 1, 2, 3, 4]
    assert micro.tokens == 12
    assert micro.segments == ((3, 3, 4, 4) if packing else ())
    sharing = micro.sharing
    assert sharing is not None
    if packing:
        assert sharing.take.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 6, 7, 8, 9, 10, 11]
        assert sharing.keep.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]
        assert (sharing.repeats, sharing.shape) == (((6, 0, 2),), (1, 14))
    else:
        assert sharing.take.view(4, 4)[2].tolist() == [0, 1, 6, 7]
        assert sharing.keep.tolist() == [0, 1, 2, 4, 5, 6, 10, 11, 12, 13, 14, 15]
        assert (sharing.repeats, sharing.shape) == (((8, 0, 2),), (4, 4))


@pytest.mark.parametrize("packing", [True, False])
def test_nothing_to_share(packing: bool) -> None:
    """Rows of different prompts, rows without a trained token, and no rows are as without sharing."""
    silent = TokenRow(np.array([5, 6, 7], np.int32), np.zeros(3, np.uint8))
    for rows in (ROWS[1:], [silent, silent], []):
        shared, plain = (collate(rows, "cpu", packing=packing, share=share) for share in (True, False))
        assert shared.sharing is None
        assert shared.input_ids.tolist() == plain.input_ids.tolist()
        assert shared.positions.tolist() == plain.positions.tolist()
        assert shared.tokens == plain.tokens


@settings(deadline=None)
@given(
    shape=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=8),
    packing=st.booleans(),
)
def test_tokens_go_into_rows_and_back(shape: list[tuple[int, int]], packing: bool) -> None:
    """Rows hold their tokens; the way back takes one copy; gradients add up over the copies."""
    import torch

    rows = [row(list(range(3, 4 + number)), list(range(9, 9 + count))) for number, count in shape]
    places, repeats = places_of(rows)
    count = tokens_without_repeats([len(one) for one in rows], prompts_of(rows))
    assert sorted({int(place) for one in places for place in one}) == list(range(count))
    sharing = make_sharing(places, repeats, "cpu", packing=packing)
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(1, 2, count, 3, generator=generator, dtype=torch.float64).requires_grad_()
    spread = sharing.spread(states)
    starts = np.cumsum([0, *(len(one) for one in rows)])
    width = max(len(one) for one in rows)
    total, expected = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for index, place in enumerate(places):
        mine = (
            spread[0, :, int(starts[index]) : int(starts[index + 1])]
            if packing
            else spread[index, :, : len(place)]
        )
        assert spread.shape == ((1, 2, int(starts[-1]), 3) if packing else (len(rows), 2, width, 3))
        torch.testing.assert_close(mine, states[0][:, torch.from_numpy(place)], rtol=0, atol=0)
        weight = torch.randn(mine.shape, generator=generator, dtype=torch.float64)
        total = total + (mine * weight).sum()
        expected = expected + (states[0][:, torch.from_numpy(place)] * weight).sum()
    (given_grad,) = torch.autograd.grad(total, states)
    (wanted_grad,) = torch.autograd.grad(expected, states)
    torch.testing.assert_close(given_grad, wanted_grad, rtol=0, atol=1e-12)
    back = sharing.gather(spread.detach().transpose(1, 2).requires_grad_())
    torch.testing.assert_close(back.transpose(1, 2), states.detach(), rtol=0, atol=0)


def test_the_way_back_has_a_gradient() -> None:
    """Of the copy that is taken; the others have none."""
    import torch

    sharing = make_sharing(*places_of(ROWS), "cpu", packing=True)
    rows = torch.randn(1, 14, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sharing.gather, (rows,))
    states = torch.randn(1, 2, 12, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sharing.spread, (states,))


def test_any_attention_sees_whole_rows() -> None:
    """What flash-attn is wrapped in, around another attention: it gets rows, and their bounds."""
    import torch

    micro = collate(ROWS, "cpu", share=True)
    arguments = micro.attention_arguments()
    seen = []

    def attention(_: Any, query: Any, key: Any, value: Any, __: Any, **named: Any) -> Any:
        seen.append((query.shape[2], key.shape[2], value.shape[2], named["cu_seq_lens_q"].tolist()))
        return segment_attention(None, query, key, value, None, segments=named["segments"])

    states = [torch.randn(1, 2, 12, 8, dtype=torch.float64) for _ in range(3)]
    found, _ = sharing_too(attention)(None, *states, None, **arguments)
    assert seen == [(14, 14, 14, [0, 3, 6, 10, 14])]
    expected, _ = segment_attention(None, *states, None, **arguments)
    assert found.shape == (1, 12, 2, 8)
    assert torch.equal(found, expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"), hidden=64, heads=2, layers=2, seed=3)


def load(folder: Path, **section: Any) -> Any:
    chosen = ModelSection.parse({"path": str(folder), "dtype": "float64"} | section, "the test")
    return exact_norms(load_causal(folder, chosen))


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("how", ["plain", "checkpointing", "lora"])
def test_states_and_gradients_are_those_of_the_rows(folder: Path, packing: bool, how: str) -> None:
    import torch

    model = load(folder)
    if how == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if how == "lora":
        add_lora(model, LoraSection(rank=2))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    module = wrap(model.train())
    assert can_share(module)
    trained = [one for one in model.parameters() if one.requires_grad]
    found = []
    for share in (True, False):
        micro = collate(ROWS, "cpu", packing=packing, share=share)
        assert (micro.sharing is not None) == share
        states = module(micro)
        weight = torch.randn(states.shape, generator=torch.Generator().manual_seed(0), dtype=states.dtype)
        grads = torch.autograd.grad((states * weight).sum(), trained, allow_unused=True)
        found.append((states.detach(), [grad for grad in grads if grad is not None]))
    (states, grads), (alone, expected) = found
    torch.testing.assert_close(states, alone, rtol=0, atol=1e-12)
    assert len(grads) == len(expected) > 4
    for grad, wanted in zip(grads, expected, strict=True):
        assert float((grad - wanted).abs().max()) < 1e-11 * float(wanted.abs().max())


def test_a_mask_for_whole_rows_does_not_share(folder: Path) -> None:
    assert not can_share(wrap(load(folder, attention="sdpa")))
