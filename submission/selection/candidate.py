"""What choosing an answer knows about one finished attempt."""

import math
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One attempt at a problem.

    Args:
        answer: in canonical form, so that equal answers compare equal; None for an attempt without one.
        tokens: tokens that the model wrote.
        logprob: sum of the log-probabilities of the model's own tokens, nats; NaN where unknown.
        entropy: mean entropy of the model's next-token distributions, nats; NaN where unknown.
        steps: probability that each step is right, 0 to 1, by a process reward model; empty where unscored.
        finished: whether it ended by itself or at its own length, rather than being cut off.
        seconds: how long it ran.
    """

    answer: Hashable | None
    tokens: int = 0
    logprob: float = math.nan
    entropy: float = math.nan
    steps: tuple[float, ...] = ()
    finished: bool = True
    seconds: float = 0.0
