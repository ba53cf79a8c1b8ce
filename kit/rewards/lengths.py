"""Rewards that look at the length of completions. Pure maths; lengths are in tokens."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class CosineValues(NamedTuple):
    """Ends of the two curves of `length_cosine`. The defaults keep to [-1, 1] and right above wrong."""

    right_at_zero: float = 1.0
    right_at_max: float = 0.5
    wrong_at_zero: float = -1.0
    wrong_at_max: float = -0.5
    overlong: float = -1.0


_DEFAULT = CosineValues()


def length_cosine(right: bool, length: int, max_length: int, values: CosineValues = _DEFAULT) -> float:
    """The cosine length reward of Yeo et al. 2025 (arXiv 2502.03373, "Demystifying Long CoT").

    From the value at length 0 to the one at max_length along half a cosine,

        R = R_max + (R_0 - R_max) (1 + cos(pi length / max_length)) / 2,

    with one curve for right and one for wrong completions; from max_length on it is `values.overlong`, right
    or wrong. With the defaults a right completion gains by being short, a wrong one by thinking longer.

    Args:
        right: whether the answer is right.
        length: tokens of the completion.
        max_length: tokens, at least 1.
        values: the ends of the curves.

    Raises:
        ValueError: max_length below 1.
    """
    if max_length < 1:
        raise ValueError(f"max_length is {max_length} tokens; it must be at least 1")
    assert length >= 0, "a length is a count"
    if length >= max_length:
        return values.overlong
    at_zero, at_max = (
        (values.right_at_zero, values.right_at_max) if right else (values.wrong_at_zero, values.wrong_at_max)
    )
    share = (1.0 + math.cos(math.pi * length / max_length)) / 2
    # A mean of the ends, so that it never leaves their interval by rounding.
    return share * at_zero + (1.0 - share) * at_max


def shorter_when_right(lengths: Sequence[int], right: Sequence[bool]) -> list[float]:
    """The length reward of Kimi k1.5 (arXiv 2501.12599, section 2.3.3) for the completions of one group.

    With lambda = 0.5 - (length - shortest) / (longest - shortest), a right completion gets lambda and a wrong
    one min(0, lambda): in [-0.5, 0.5]. Where all are equally long, all get 0.

    Args:
        lengths: tokens of each completion of the group.
        right: whether each is right, as many.
    """
    assert len(lengths) == len(right), "one verdict a completion"
    if not lengths or min(lengths) == max(lengths):
        return [0.0] * len(lengths)
    shortest, spread = min(lengths), max(lengths) - min(lengths)
    shares = [0.5 - (length - shortest) / spread for length in lengths]
    return [share if good else min(0.0, share) for share, good in zip(shares, right, strict=True)]
