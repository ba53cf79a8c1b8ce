"""The cache that grows in place holds what transformers' own holds, whatever rows leave."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.training.kv_cache import drop_rows, make_cache


def config() -> object:
    from transformers import Qwen2Config

    return Qwen2Config(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, num_key_value_heads=2)


def test_rows_from_the_end_fill_the_gaps() -> None:
    import torch

    going = torch.tensor([True, False, True, False, False, True, True])
    assert drop_rows(going).tolist() == [0, 5, 2, 6]
    assert drop_rows(torch.tensor([True, True, False])).tolist() == [0, 1]
    assert drop_rows(torch.tensor([False, False, True])).tolist() == [2]


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_all_that_go_on_are_kept_and_moves_never_read_what_was_written(going: list[bool]) -> None:
    import torch

    kept = drop_rows(torch.tensor(going)).tolist()
    assert sorted(kept) == [row for row, goes in enumerate(going) if goes]
    assert all(source in (place, *range(len(kept), len(going))) for place, source in enumerate(kept))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_it_holds_what_transformers_own_holds(data: st.DataObject) -> None:
    import torch
    from transformers import DynamicCache

    ours, theirs = make_cache(config()), DynamicCache(config=config())
    rows = data.draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    for tokens in data.draw(st.lists(st.sampled_from([1, 3, 40]), min_size=1, max_size=5)):
        for layer in range(2):
            keys, values = torch.randn(2, rows, 2, tokens, 4, generator=generator)
            expected = theirs.update(keys, values, layer)
            for mine, other in zip(ours.update(keys, values, layer), expected, strict=True):
                assert torch.equal(mine, other)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if data.draw(st.booleans()):
            indices = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=6)))
        else:
            going = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
            indices = drop_rows(going) if going.any() else torch.arange(rows)
        rows = len(indices)
        for cache in (ours, theirs):
            cache.batch_select_indices(indices)
        for mine, other in zip(ours.layers, theirs.layers, strict=True):
            assert torch.equal(mine.keys, other.keys)
            assert torch.equal(mine.values, other.values)


def test_a_model_with_sliding_windows_keeps_its_own_layers() -> None:
    from transformers import Qwen2Config
    from transformers.cache_utils import DynamicSlidingWindowLayer

    windowed = Qwen2Config(
        num_hidden_layers=2, use_sliding_window=True, sliding_window=4, max_window_layers=1, hidden_size=8
    )
    kinds = [isinstance(layer, DynamicSlidingWindowLayer) for layer in make_cache(windowed).layers]
    assert kinds == [False, True]


@pytest.mark.parametrize("tokens", [1, 7])
def test_nothing_is_copied_while_there_is_room(tokens: int) -> None:
    import torch

    cache = make_cache(config())
    states = torch.ones(3, 2, tokens, 4)
    places = {cache.update(states, states, 0)[0].data_ptr() for _ in range(2)}
    assert len(places) == 1
