"""How the rows of one optimizer step are cut into micro-batches and spread over ranks.

Every rank gets the same number of micro-batches, since partitioned engines (ZeRO) gather together in each;
where rows run out, a micro-batch is empty. What a step computes does not depend on the plan.
"""

import heapq
from collections.abc import Sequence

MicroPlan = tuple[int, ...]
"""Which rows (indices into the step's rows) one forward pass holds."""


def plan_step(
    lengths: Sequence[int], capacity: int, world_size: int, *, packing: bool = True
) -> list[list[MicroPlan]]:
    """Micro-batches of every rank.

    Args:
        lengths: tokens of each row of the step; none is over `capacity`.
        capacity: tokens of one micro-batch at most, padding included.
        packing: rows lie end to end; else they are padded to the longest of their micro-batch.

    Returns:
        [rank][micro-batch], equally many for each rank. First-fit decreasing (Johnson 1973: at most 11/9 of
        the optimal number of bins), then the fullest first to the rank with the least work.
        O(n log n + n * bins) time for n rows.
    """
    assert all(0 < length <= capacity for length in lengths), "rows over the capacity are dropped at loading"
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    bins = _first_fit(order, lengths, capacity) if packing else _padded(order, lengths, capacity)
    bins.sort(key=lambda rows: (-sum(lengths[row] for row in rows), rows[0]))
    count = max(1, -(-len(bins) // world_size))
    plan: list[list[MicroPlan]] = [[] for _ in range(world_size)]
    ranks = [(0, rank) for rank in range(world_size)]
    for rows in bins:
        while len(plan[ranks[0][1]]) == count:
            heapq.heappop(ranks)
        work, rank = heapq.heappop(ranks)
        plan[rank].append(tuple(rows))
        heapq.heappush(ranks, (work + sum(lengths[row] for row in rows), rank))
    return [micros + [()] * (count - len(micros)) for micros in plan]


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
    """Neighbours in length share a micro-batch; the first is the longest, to which the others are padded."""
    bins: list[list[int]] = []
    for row in order:
        if bins and (len(bins[-1]) + 1) * lengths[bins[-1][0]] <= capacity:
            bins[-1].append(row)
        else:
            bins.append([row])
    return bins
