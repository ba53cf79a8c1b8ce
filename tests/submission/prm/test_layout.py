"""One place a step, by hand and over whatever lengths there are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submission.prm.layout import Layout, Long, lay_out, without

SEP = (9,)


def test_prompt_steps_and_separators() -> None:
    (found,) = lay_out([1, 2], [[3, 4], [5]], SEP, 100)
    assert found == Layout(ids=(1, 2, 3, 4, 9, 5, 9), ends=(4, 6), spans=((2, 4), (5, 6)), first=0)


def test_separators_of_several_tokens_and_of_none() -> None:
    assert lay_out([1], [[2], [3]], (8, 9), 100) == [Layout((1, 2, 8, 9, 3, 8, 9), (3, 6), ((1, 2), (4, 5)))]
    assert lay_out([1], [[2, 3], [4]], (), 100) == [Layout((1, 2, 3, 4), (2, 3), ((1, 3), (3, 4)))]


def test_an_empty_step_has_its_place_too() -> None:
    assert lay_out([1], [[], [2]], SEP, 100) == [Layout((1, 9, 2, 9), (1, 3), ((1, 1), (2, 3)))]
    assert lay_out([1], [[]], (), 100) == [Layout((1,), (0,), ((1, 1),))]
    assert lay_out([1], [], SEP, 100) == []


def test_a_separator_inside_a_step_is_taken_out() -> None:
    assert lay_out([1], [[9, 2, 9, 3, 9]], SEP, 100) == [Layout((1, 2, 3, 9), (3,), ((1, 3),))]
    assert without([1, 8, 8, 9, 9, 2], (8, 9)) == [1, 2]
    assert without([1, 8], (8, 9)) == [1, 8]
    assert without([1, 2], ()) == [1, 2]


def test_windows_score_each_step_once_with_earlier_ones_before_it() -> None:
    # Room for 8 tokens behind the prompt, so four steps of two; later windows bring in two and keep two.
    steps = [[step] for step in range(20, 27)]
    windows = lay_out([1, 2], steps, SEP, 10)
    assert [(window.first, len(window.ends)) for window in windows] == [(0, 4), (4, 2), (6, 1)]
    assert windows[1].ids == (1, 2, 22, 9, 23, 9, 24, 9, 25, 9)
    assert windows[1].ends == (7, 9)
    assert windows[2].ids == (1, 2, 23, 9, 24, 9, 25, 9, 26, 9)
    assert windows[2].spans == ((8, 9),)


def test_last_scores_what_fits_of_the_end() -> None:
    (found,) = lay_out([1, 2], [[step] for step in range(20, 27)], SEP, 10, "last")
    assert found == Layout(
        (1, 2, 23, 9, 24, 9, 25, 9, 26, 9), (3, 5, 7, 9), ((2, 3), (4, 5), (6, 7), (8, 9)), 3
    )


@pytest.mark.parametrize("long", ["windows", "last"])
def test_a_step_longer_than_the_context_is_judged_by_its_end(long: Long) -> None:
    found = lay_out([1, 2], [list(range(20, 40))], SEP, 8, long)
    assert found == [Layout((1, 2, 35, 36, 37, 38, 39, 9), (7,), ((2, 7),))]
    longer = lay_out(list(range(50, 70)), [[2], list(range(20, 40))], SEP, 8)
    assert [window.ids for window in longer] == [(66, 67, 68, 69, 2, 9), (66, 67, 68, 69, 37, 38, 39, 9)]


def test_what_cannot_be_laid_out() -> None:
    with pytest.raises(ValueError, match="no token"):
        lay_out([], [[1]], SEP, 10)
    with pytest.raises(ValueError, match="context of 3 tokens"):
        lay_out([1], [[1]], SEP, 3)


STEPS = st.lists(st.lists(st.integers(0, 12), max_size=9), max_size=40)


@given(
    st.lists(st.integers(20, 30), min_size=1, max_size=20),
    STEPS,
    st.sampled_from([(), (9,), (8, 9), (9, 9)]),
    st.integers(6, 60),
)
def test_each_step_has_one_place(
    prompt: list[int], steps: list[list[int]], separator: tuple[int, ...], max_context: int
) -> None:
    windows = lay_out(prompt, steps, separator, max_context)
    size = len(separator)
    scored: list[list[int]] = []
    for window in windows:
        assert 0 < len(window.ids) <= max_context
        assert window.first == len(scored)
        assert len(set(window.ends)) == len(window.ends) or not separator
        assert list(window.ends) == sorted(window.ends)
        for end, (begin, stop) in zip(window.ends, window.spans, strict=True):
            assert end == stop + size - 1
            assert window.ids[stop : stop + size] == separator
            scored.append(list(window.ids[begin:stop]))
    assert len(scored) == len(steps)
    for text, step in zip(scored, steps, strict=True):
        kept = without(step, separator)
        assert text == kept[len(kept) - len(text) :]
        if len(prompt) + len(kept) + size <= max_context // 2:
            assert text == kept
    last = lay_out(prompt, steps, separator, max_context, "last")
    assert len(last) == bool(steps)
    assert all(found.first + len(found.ends) == len(steps) for found in last)


@given(STEPS, st.integers(1, 8))
def test_single_separators_are_as_many_as_steps(steps: list[list[int]], prompt: int) -> None:
    for window in lay_out([20] * prompt, steps, (9,), 10_000):
        assert window.ids.count(9) == len(steps) == len(window.ends)


def test_five_hundred_steps() -> None:
    windows = lay_out([1] * 50, [[2] * 30] * 500, SEP, 4_096)
    assert sum(len(window.ends) for window in windows) == 500
    assert all(window.first == 0 or len(window.ids) > 4_000 for window in windows[:-1])
