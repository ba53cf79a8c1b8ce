"""Trees of tokens: by hand, and that every sequence is found again along its parents."""

from hypothesis import given
from hypothesis import strategies as st

from submission.prm.tree import grow


def test_shared_beginnings_are_there_once() -> None:
    tree = grow([[1, 2, 3], [1, 2, 4, 5], [1, 2, 3], [1], [7], []])
    assert tree.ids == [1, 2, 3, 4, 5, 7]
    assert tree.depths == [0, 1, 2, 2, 3, 0]
    assert tree.parents == [-1, 0, 1, 1, 3, -1]
    assert tree.ends == [5, 5, 3, 5, 5, 6]
    assert tree.places == [[0, 1, 2], [0, 1, 3, 4], [0, 1, 2], [0], [5], []]


@given(st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=12))
def test_each_sequence_is_a_path_and_sees_itself_only(sequences: list[list[int]]) -> None:
    tree = grow(sequences)
    assert len(tree.ids) == len({tuple(one[: end + 1]) for one in sequences for end in range(len(one))})
    for sequence, places in zip(sequences, tree.places, strict=True):
        assert [tree.ids[place] for place in places] == sequence
        assert [tree.depths[place] for place in places] == list(range(len(sequence)))
        assert [tree.parents[place] for place in places] == [-1, *places][: len(places)]
        for number, place in enumerate(places):
            seen = [other for other in range(place + 1) if place < tree.ends[other]]
            assert seen == places[: number + 1]
