"""What a step trains on: token rows that carry what their completion earned."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.grpo.rollout import Completion
from kit.training.rows import TokenRow

_NONE: npt.NDArray[Any] = np.empty(0)


@dataclass(frozen=True)
class PolicyRow(TokenRow):
    """A prompt with its completion.

    Args:
        advantage: of the completion.
        sampled: [n] log-probabilities under the sampler, for the n trained tokens; NaN where unknown.
        weight: of each token in the step's loss (`kit.losses.token_weights`).
        old: [n] the trainer's own log-probabilities before the first update; empty where they are those of
            the first forward pass itself.
        reference: [n] under the reference model; empty without one.
    """

    advantage: float = 0.0
    sampled: npt.NDArray[Any] = field(default_factory=lambda: _NONE)
    weight: float = 0.0
    old: npt.NDArray[Any] = field(default_factory=lambda: _NONE)
    reference: npt.NDArray[Any] = field(default_factory=lambda: _NONE)


def policy_row(prompt: Sequence[int], completion: Completion, source: int, advantage: float) -> PolicyRow:
    """A row that is trained on the tokens that the model itself wrote."""
    first, length = len(prompt), len(prompt) + len(completion.ids)
    mask = np.zeros(length, np.uint8)
    mask[first:] = completion.mask
    ids = np.empty(length, np.int32)
    ids[:first], ids[first:] = prompt, completion.ids
    sampled = np.array(completion.logprobs, np.float64)[mask[first:] != 0]
    return PolicyRow(ids, mask, source, advantage=advantage, sampled=sampled)
