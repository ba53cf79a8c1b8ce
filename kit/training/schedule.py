"""Learning rate of each optimizer step: warm-up, then constant, linear, cosine or warm-up-stable-decay."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "wsd"]

DECAY_SHARE = 0.2
"""Share of all steps that `wsd` decays in."""


def lr_at(
    step: int,
    total: int,
    *,
    lr: float,
    kind: Schedule = "cosine",
    warmup_ratio: float = 0.0,
    min_lr_ratio: float = 0.0,
) -> float:
    """Learning rate of update number `step`, counted from 0.

    With w = ceil(warmup_ratio * total) warm-up updates, update s < w has rate lr * (s + 1) / (w + 1): the
    first is above 0, and update w is the first at the full rate. From there the rate falls so that it would
    reach lr * min_lr_ratio at s = total, one past the last: no update is made at rate 0.

        constant   stays at lr
        linear     straight down from update w
        cosine     half a cosine from update w (Loshchilov & Hutter 2017, without restarts)
        wsd        stays at lr, then straight down over the last fifth, ceil(total / 5) updates or as many
                   as warm-up leaves (Hu et al. 2024, MiniCPM; linear as in Hägele et al. 2024)

    Args:
        step: 0..total - 1.
        total: optimizer updates of the whole run.
        lr: the full rate.
        kind: the shape after warm-up.
        warmup_ratio: share of `total`, in [0, 1].
        min_lr_ratio: in [0, 1]; not used by `constant`.

    Raises:
        ValueError: a step outside the run, or a ratio outside [0, 1].
    """
    if not 0 <= step < total:
        raise ValueError(f"step is {step}, but a run of {total} updates has steps 0 to {total - 1}")
    for name, ratio in (("warmup_ratio", warmup_ratio), ("min_lr_ratio", min_lr_ratio)):
        if not 0 <= ratio <= 1:
            raise ValueError(f"{name} is {ratio}; it must lie in [0, 1]")
    warmup = _share(warmup_ratio, total)
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    start = warmup if kind != "wsd" else max(warmup, total - _share(DECAY_SHARE, total))
    if kind == "constant" or step <= start:
        return lr
    progress = (step - start) / (total - start)
    left = (1 + math.cos(math.pi * progress)) / 2 if kind == "cosine" else 1 - progress
    return lr * (min_lr_ratio + (1 - min_lr_ratio) * left)


def _share(ratio: float, total: int) -> int:
    """ceil(ratio * total), unmoved by the product's last binary digits (0.07 * 100 is 7.000000000000001)."""
    return math.ceil(round(ratio * total, 6))
