"""One number for a candidate from the scores of its steps."""

import math
from collections.abc import Sequence
from typing import Literal

Aggregate = Literal["min", "mean", "last", "product"]


def aggregate(scores: Sequence[float], how: Aggregate) -> float:
    """One number from the scores of the steps; NaN where there is none, or one of them is not finite.

    `min` and `product` are Lightman et al. 2023 (arXiv 2305.20050), `last` is Uesato et al. 2022. They rank
    candidates differently, so choose by evaluation.
    """
    if not scores or not all(map(math.isfinite, scores)):
        return math.nan
    if how == "min":
        return min(scores)
    if how == "mean":
        return math.fsum(scores) / len(scores)
    return scores[-1] if how == "last" else math.prod(scores)
