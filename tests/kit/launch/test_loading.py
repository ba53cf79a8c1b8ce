"""No collections while loading, and as before afterwards."""

import gc

import pytest

from kit.launch.loading import without_collections


def test_what_is_loaded_is_not_looked_through() -> None:
    before = gc.get_freeze_count()
    try:
        with without_collections():
            assert not gc.isenabled()
            loaded: list[list[int]] = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(loaded)
        young = {id(one) for one in gc.get_objects()}
        assert not any(id(one) in young for one in loaded)
    finally:
        gc.unfreeze()


def test_it_is_as_before_afterwards() -> None:
    with pytest.raises(ImportError), without_collections():
        raise ImportError("no torch here")
    assert gc.isenabled()
    gc.disable()
    try:
        with without_collections():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
