"""How the rows of one optimizer step are cut into micro-batches and spread over ranks.

Every rank gets the same number of micro-batches, since partitioned engines (ZeRO) gather together in each;
where rows run out, a micro-batch is empty. What a step computes does not depend on the plan.
"""

import heapq
from collections.abc import Sequence
from itertools import zip_longest

from kit.training.sharing import tokens_without_repeats

MicroPlan = tuple[int, ...]
"""Which rows (indices into the step's rows) one forward pass holds."""


def plan_step(
    lengths: Sequence[int],
    capacity: int,
    world_size: int,
    *,
    packing: bool = True,
    prompts: Sequence[tuple[int, int]] = (),
) -> list[list[MicroPlan]]:
    """Micro-batches of every rank.

    Args:
        lengths: tokens of each row of the step; none is over `capacity`.
        capacity: tokens of one micro-batch at most, padding included, and every copy of a prompt.
        packing: rows lie end to end; else they are padded to the longest of their micro-batch.
        prompts: (number, tokens) of each row's prompt, where equal ones in a micro-batch go through once.
            Rows of a prompt are kept together then, unless that costs the busiest ranks more than it saves.

    Returns:
        [rank][micro-batch], equally many for each rank. First-fit decreasing (Johnson 1973: at most 11/9 of
        the optimal number of bins), then the fullest first to the rank with the least work.
        O(n log n + n * bins) time for n rows.
    """
    assert all(0 < length <= capacity for length in lengths), "rows over the capacity are dropped at loading"
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    into_bins = _first_fit if packing else _padded
    plain = _spread_out(into_bins(order, lengths, capacity), lengths, world_size, prompts)
    if len({number for number, _ in prompts}) == len(prompts):
        return plain
    if packing:
        bins = _groups_first_fit(order, lengths, capacity, prompts)
    else:
        bins = _padded(_by_group(order, prompts), lengths, capacity)
    grouped = _spread_out(bins, lengths, world_size, prompts)
    return min((plain, grouped), key=lambda plan: _longest_way(plan, lengths, prompts))


def _spread_out(
    bins: list[list[int]], lengths: Sequence[int], world_size: int, prompts: Sequence[tuple[int, int]]
) -> list[list[MicroPlan]]:
    """Micro-batches to ranks."""
    sizes = {rows[0]: _tokens(rows, lengths, prompts) for rows in bins}
    bins.sort(key=lambda rows: (-sizes[rows[0]], rows[0]))
    count = max(1, -(-len(bins) // world_size))
    plan: list[list[MicroPlan]] = [[] for _ in range(world_size)]
    ranks = [(0, rank) for rank in range(world_size)]
    for rows in bins:
        while len(plan[ranks[0][1]]) == count:
            heapq.heappop(ranks)
        work, rank = heapq.heappop(ranks)
        plan[rank].append(tuple(rows))
        heapq.heappush(ranks, (work + sizes[rows[0]], rank))
    return [micros + [()] * (count - len(micros)) for micros in plan]


def _tokens(rows: Sequence[int], lengths: Sequence[int], prompts: Sequence[tuple[int, int]]) -> int:
    """That go through the model."""
    chosen = [lengths[row] for row in rows]
    return tokens_without_repeats(chosen, [prompts[row] for row in rows]) if prompts else sum(chosen)


def _longest_way(
    plan: Sequence[Sequence[MicroPlan]], lengths: Sequence[int], prompts: Sequence[tuple[int, int]]
) -> int:
    """Tokens on the busiest rank of each micro-batch, in which all ranks meet."""
    return sum(
        max(_tokens(rows, lengths, prompts) for rows in together)
        for together in zip_longest(*plan, fillvalue=())
    )


def _groups_first_fit(
    order: Sequence[int], lengths: Sequence[int], capacity: int, prompts: Sequence[tuple[int, int]]
) -> list[list[int]]:
    """Rows of a prompt into as few parts as they need, and these parts into bins."""
    groups: dict[int, list[int]] = {}
    for row in order:
        groups.setdefault(prompts[row][0], []).append(row)
    parts = [part for rows in groups.values() for part in _first_fit(rows, lengths, capacity)]
    sizes = [sum(lengths[row] for row in part) for part in parts]
    largest = sorted(range(len(parts)), key=lambda index: (-sizes[index], parts[index][0]))
    return [
        [row for index in chosen for row in parts[index]] for chosen in _first_fit(largest, sizes, capacity)
    ]


def _by_group(order: Sequence[int], prompts: Sequence[tuple[int, int]]) -> list[int]:
    """Rows of a prompt after each other, from the prompt with the longest row on."""
    places: dict[int, int] = {}
    for place, row in enumerate(order):
        places.setdefault(prompts[row][0], place)
    return sorted(order, key=lambda row: places[prompts[row][0]])


def _first_fit(order: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    free: list[int] = []
    for row in order:
        length = lengths[row]
        place = next((index for index, space in enumerate(free) if space >= length), None)
        if place is None:
            bins.append([row])
            free.append(capacity - length)
        else:
            bins[place].append(row)
            free[place] -= length
    return bins


def _padded(order: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Neighbours in the order share a micro-batch, padded to its longest."""
    bins: list[list[int]] = []
    longest = 0
    for row in order:
        longest = max(longest, lengths[row])
        if bins and (len(bins[-1]) + 1) * longest <= capacity:
            bins[-1].append(row)
        else:
            bins.append([row])
            longest = lengths[row]
    return bins
