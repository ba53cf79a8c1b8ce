"""The plan of a step: no micro-batch over its capacity, every row once, ranks that meet equally often."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.training.packing import MicroPlan, plan_step
from kit.training.sharing import tokens_without_repeats

LENGTHS = st.lists(st.integers(1, 100), max_size=40)


def bins_of(plan: list[list[MicroPlan]]) -> list[MicroPlan]:
    return [rows for micros in plan for rows in micros if rows]


@given(lengths=LENGTHS, spare=st.integers(0, 150), world_size=st.integers(1, 9), packing=st.booleans())
def test_what_every_plan_keeps(lengths: list[int], spare: int, world_size: int, packing: bool) -> None:
    capacity = max([1, *lengths]) + spare
    plan = plan_step(lengths, capacity, world_size, packing=packing)
    bins = bins_of(plan)
    assert len(plan) == world_size
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    counts = {len(micros) for micros in plan}
    assert counts == {max(1, -(-len(bins) // world_size))}  # equal, and no more than needed
    for rows in bins:
        used = sum(lengths[row] for row in rows)
        area = used if packing else len(rows) * max(lengths[row] for row in rows)
        assert area <= capacity
    assert plan == plan_step(lengths, capacity, world_size, packing=packing)


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=40), spare=st.integers(0, 150))
def test_first_fit_decreasing_wastes_little(lengths: list[int], spare: int) -> None:
    """At most 11/9 of the fewest bins and 6/9 (Dosa 2007), of which the sum gives a lower bound; and a bin
    is opened only where no other had room, so at most one of them is not over half full.
    """
    capacity = max(lengths) + spare
    bins = [sum(lengths[row] for row in rows) for rows in bins_of(plan_step(lengths, capacity, 1))]
    assert sum(size * 2 <= capacity for size in bins) <= 1
    assert len(bins) <= max(1, 2 * sum(lengths) / capacity + 1)


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=40), spare=st.integers(0, 150))
def test_padding_goes_with_neighbours_in_length(lengths: list[int], spare: int) -> None:
    """Two successive bins together would not have fitted into one: the area lost is bounded."""
    capacity = max(lengths) + spare
    bins = bins_of(plan_step(lengths, capacity, 1, packing=False))
    bins.sort(key=lambda rows: -max(lengths[row] for row in rows))
    spans = [(max(lengths[r] for r in rows), min(lengths[r] for r in rows), len(rows)) for rows in bins]
    for (longest, shortest, count), (following, _, _) in pairwise(spans):
        assert shortest >= following
        assert (count + 1) * longest > capacity


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=40),
    spare=st.integers(0, 100),
    world_size=st.integers(2, 6),
)
def test_ranks_share_the_work(lengths: list[int], spare: int, world_size: int) -> None:
    """The fullest first to the idlest: in every round of bins, ranks drift apart by one bin at most."""
    capacity = max(lengths) + spare
    plan = plan_step(lengths, capacity, world_size)
    work = [sum(lengths[row] for rows in micros for row in rows) for micros in plan]
    if len(bins_of(plan)) % world_size == 0:
        assert max(work) - min(work) <= capacity


def test_a_plan_by_hand() -> None:
    # Descending: 7 6 5 4 3 2. First fit in 10: [7 3] [6 4] [5 2].
    assert sorted(bins_of(plan_step([4, 7, 2, 6, 3, 5], 10, 1))) == [(1, 4), (3, 0), (5, 2)]
    # Padded, in 14: [7 6] is 14; [5 4] is 10, a third would be 15; [3 2] is 6.
    assert sorted(bins_of(plan_step([4, 7, 2, 6, 3, 5], 14, 1, packing=False))) == [(1, 3), (4, 2), (5, 0)]
    # Two ranks, three bins: the second rank has one micro-batch without rows.
    assert plan_step([4, 7, 2, 6, 3, 5], 10, 2) == [[(1, 4), (5, 2)], [(3, 0), ()]]


def test_no_rows_and_too_few_rows() -> None:
    assert plan_step([], 10, 3) == [[()], [()], [()]]
    assert plan_step([5], 10, 3) == [[(0,)], [()], [()]]


def test_a_row_over_the_capacity_is_an_error_of_ours() -> None:
    with pytest.raises(AssertionError, match="dropped at loading"):
        plan_step([11], 10, 1)


GROUPS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), min_size=1, max_size=30)
"""(prompt, tokens of the completion) of each row; prompt p has 10 p + 1 tokens."""


def busiest(
    plan: list[list[MicroPlan]], lengths: list[int], prompts: list[tuple[int, int]]
) -> tuple[int, list[int]]:
    """Tokens on the busiest rank of each micro-batch together, and those of every micro-batch."""
    sizes = [
        [
            tokens_without_repeats([lengths[row] for row in rows], [prompts[row] for row in rows])
            for rows in ranks
        ]
        for ranks in plan
    ]
    return sum(map(max, zip(*sizes, strict=True))), [size for ranks in sizes for size in ranks]


@given(rows=GROUPS, spare=st.integers(0, 150), world_size=st.integers(1, 5), packing=st.booleans())
def test_sharing_prompts_keeps_what_every_plan_keeps_and_costs_nothing(
    rows: list[tuple[int, int]], spare: int, world_size: int, packing: bool
) -> None:
    prompts = [(number, 10 * number + 1) for number, _ in rows]
    lengths = [prompt + own for (_, prompt), (_, own) in zip(prompts, rows, strict=True)]
    capacity = max(lengths) + spare
    plan = plan_step(lengths, capacity, world_size, packing=packing, prompts=prompts)
    bins = bins_of(plan)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert len({len(micros) for micros in plan}) == 1
    for chosen in bins:
        used = sum(lengths[row] for row in chosen)
        assert (used if packing else len(chosen) * max(lengths[row] for row in chosen)) <= capacity
    alone = plan_step(lengths, capacity, world_size, packing=packing)
    assert busiest(plan, lengths, prompts)[0] <= busiest(alone, lengths, prompts)[0]


def test_a_plan_that_shares_by_hand() -> None:
    # Two groups of two with 6 of 8 tokens in common, and room for two rows: by length they would mix.
    lengths, prompts = [9, 8, 9, 8], [(0, 6), (1, 6), (1, 6), (0, 6)]
    plan = plan_step(lengths, 18, 1, prompts=prompts)
    assert sorted(bins_of(plan)) == [(0, 3), (2, 1)]
    assert busiest(plan, lengths, prompts)[1] == [11, 11]
    assert sorted(bins_of(plan_step(lengths, 18, 1, packing=False, prompts=prompts))) == [(0, 3), (2, 1)]
    # A group of two in 12 leaves the other pair alone: 14 tokens on the busier rank, where mixed it is 12.
    lengths, prompts = [9, 9, 3, 3], [(0, 1), (0, 1), (1, 1), (1, 1)]
    assert sorted(bins_of(plan_step(lengths, 12, 2, prompts=prompts))) == [(0, 2), (1, 3)]
