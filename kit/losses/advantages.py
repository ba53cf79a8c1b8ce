"""Advantages of completions relative to their group (GRPO), and which groups carry none. Pure maths.

    A_i = (r_i - mean of its group) / (std + eps)

with the std of its own group (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300), of the whole batch, or
without the division (Liu et al. 2025, Dr. GRPO, arXiv 2503.20783). The std is the sample's (ddof = 1) and eps
is 1e-4, both as in TRL. The sums are correctly rounded (`math.fsum`), so the order of the batch does not
matter to the last bit.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, assert_never

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Scale = Literal["group", "batch", "none"]

EQUAL = 1e-9
"""Rewards of a group are equal where they spread over no more than this times the largest |reward| of the
group, or times 1 where that is larger: rewards are of the order of 1, and 0.1 + 0.2 - 0.3 is not a signal."""


def group_advantages(
    rewards: "ArrayLike", groups: "ArrayLike", *, scale: Scale = "group", eps: float = 1e-4
) -> "NDArray[np.float64]":
    """Advantage of each completion; exactly 0 for groups without signal (`zero_variance`) and lost samples.

    A NaN reward stands for a sample that was lost. It counts in no mean and no std.

    Args:
        rewards: [B], computed in float64; NaN where missing.
        groups: [B], integers: completions of the same prompt have the same number, in any order.
        scale: what the std is taken over. `batch` takes all rewards of the batch that are there, from their
            common mean (not each from its group's), those of groups without signal included.
        eps: added to the std, in units of reward; not negative.

    Returns:
        [B], float64; the advantages of a group sum to 0, up to rounding.

    Raises:
        ValueError: an infinite reward, shapes that differ, groups that are no integers, a negative eps.
    """
    rewards, groups = _checked(rewards, groups)
    if not eps >= 0:
        raise ValueError(f"eps is {eps}; it must not be negative")
    advantages = np.zeros_like(rewards)
    batch_std = _std(rewards[~np.isnan(rewards)]) if scale == "batch" else 0.0
    for _, members in _with_signal(rewards, groups):
        present = rewards[members]
        centred = present - math.fsum(present) / len(present)
        if scale == "group":
            centred /= _std(present) + eps
        elif scale == "batch":
            centred /= batch_std + eps
        elif scale != "none":
            assert_never(scale)
        advantages[members] = centred
    return advantages


def zero_variance(rewards: "ArrayLike", groups: "ArrayLike") -> set[int]:
    """Numbers of the groups that teach nothing: all rewards equal up to `EQUAL`, or fewer than two there.

    Dynamic sampling draws other prompts in their place (Yu et al. 2025, DAPO, arXiv 2503.14476, section 3.2).

    Args:
        rewards: [B]; NaN where missing.
        groups: [B], integers.

    Raises:
        ValueError: as in `group_advantages`.
    """
    rewards, groups = _checked(rewards, groups)
    return set(groups.tolist()) - {group for group, _ in _with_signal(rewards, groups)}


def _with_signal(
    rewards: "NDArray[np.float64]", groups: "NDArray[np.int64]"
) -> "Iterator[tuple[int, NDArray[np.intp]]]":
    """Each group that has signal, and the indices of its rewards that are there."""
    there = np.flatnonzero(~np.isnan(rewards))
    there = there[np.argsort(groups[there], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[there])) + 1
    for members in np.split(there, starts):
        if len(members) < 2:
            continue
        values = rewards[members]
        if values.max() - values.min() > EQUAL * max(1.0, float(np.abs(values).max())):
            yield int(groups[members[0]]), members


def _std(values: "NDArray[np.float64]") -> float:
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((values - mean) ** 2) / (len(values) - 1))


def _checked(rewards: "ArrayLike", groups: "ArrayLike") -> "tuple[NDArray[np.float64], NDArray[np.int64]]":
    values, numbers = np.asarray(rewards, dtype=np.float64), np.asarray(groups)
    if values.ndim != 1 or values.shape != numbers.shape:
        raise ValueError(
            f"rewards have shape {values.shape} and groups {numbers.shape}; both must be [B], "
            "with one group number for each reward"
        )
    if numbers.size and numbers.dtype.kind not in "iu":
        raise ValueError(f"groups are of type {numbers.dtype}; they must be integers")
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        index = int(infinite[0])
        raise ValueError(
            f"reward {index} is {values[index]}; give a finite reward, or NaN for a sample that was lost"
        )
    return values, numbers.astype(np.int64)
